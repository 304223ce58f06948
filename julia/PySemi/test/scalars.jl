# The distance of a number from the exact result, in units of its last place.
function ulps(y::T, exact) where {T}
    isnan(exact) && return isnan(y) ? 0.0 : Inf
    nearest = T(exact)
    isinf(nearest) | isinf(y) && return y == nearest ? 0.0 : Inf
    return Float64(abs(y - exact) / eps(max(abs(nearest), floatmin(T))))
end

worst(f, exact, points) = maximum(x -> ulps(f(x), exact(wide(x))), points)

# Double precision is exact enough to judge single precision, and faster.
wide(x::Float32) = Float64(x)
wide(x::Float64) = BigFloat(x; precision = 128)

"Numbers of every magnitude, both signs, and densely those where something happens."
function all_over(::Type{T}, step) where {T}
    U = Base.uinttype(T)
    last = reinterpret(U, T(Inf))
    positive = [reinterpret(T, bits) for bits in U(0):(last ÷ U(step)):last]
    special = T[0, floatmin(T), nextfloat(T(0)), prevfloat(floatmin(T)), floatmax(T), Inf, NaN]
    edges = T[eps(T), 0.5, sqrt(0.5), 0.55, 0.625, 1, sqrt(2), 9.1, 22, 88.72283, 88.72284, 103.97, 104, 709.78, 709.79, 745.13, 746]
    around = [nextfloat(x, i) for x in edges for i in -20:20]
    dense = vcat(range(T(-3), T(3); length = step), range(T(-800), T(800); length = step))
    points = vcat(positive, special, around)
    return vcat(points, -points, dense)
end

logistic(x) = inv(one(x) + exp(-x))
logarithm(x) = x < 0 ? oftype(x, NaN) : log(x)
logarithm1p(x) = x < -1 ? oftype(x, NaN) : log1p(x)

@testset "$name of $T is within $bound ulp everywhere" for (T, count) in ((Float32, 200_000), (Float64, 8_000)),
        (name, f, exact, bound) in (
            ("exp", Scalars.exp, exp, 1), ("tanh", Scalars.tanh, tanh, 2),
            ("sigmoid", Scalars.sigmoid, logistic, 2.25), ("log", Scalars.log, logarithm, 1),
            ("log1p", Scalars.log1p, logarithm1p, 1.5),
        )

    @test worst(f, exact, all_over(T, count)) <= bound
end

@testset "limits and signs of $T" for T in (Float32, Float64)
    @test Scalars.exp(T(-Inf)) === T(0) && Scalars.exp(T(Inf)) === T(Inf)
    @test Scalars.tanh(T(-Inf)) === T(-1) && Scalars.tanh(T(Inf)) === T(1)
    @test Scalars.tanh(T(-0.0)) === T(-0.0)
    @test Scalars.sigmoid(T(-Inf)) === T(0) && Scalars.sigmoid(T(Inf)) === T(1)
    @test all(f -> isnan(f(T(NaN))), (Scalars.exp, Scalars.tanh, Scalars.sigmoid))
    @test Scalars.exp(T(1)) isa T && Scalars.tanh(T(1)) isa T
end

# Of a loop over `f`, whether the machine code works on several numbers at a time.
function has_vectors(f, ::Type{T}) where {T}
    name = T == Float32 ? "float" : "double"
    code = sprint(io -> code_llvm(io, apply!, (Vector{T}, typeof(f), Vector{T}); debuginfo = :none))
    return occursin(Regex("fmul <\\d+ x $name>"), code)
end
function apply!(y, f, x)
    @inbounds @simd ivdep for i in eachindex(y, x)
        y[i] = f(x[i])
    end
    return y
end

using InteractiveUtils: code_llvm

@testset "loops over $f of $T are vector instructions" for T in (Float32, Float64),
        f in (Scalars.exp, Scalars.tanh, Scalars.sigmoid, Scalars.log, Scalars.log1p)

    @test has_vectors(f, T)
    @test !has_vectors(Base.sin, T) # that the question can be answered with no
end

@testset "outside its domain a function is NaN, as in torch" begin
    for T in (Float32, Float64)
        for f in (Scalars.sqrt, Scalars.log, Scalars.log2, Scalars.log10)
            @test isnan(f(T(-1))) && isnan(f(T(NaN)))
            @test f(T(4)) === getfield(Base, nameof(f))(T(4))
        end
        @test isnan(Scalars.log1p(T(-2))) && isnan(Scalars.asin(T(2))) && isnan(Scalars.acos(T(-2)))
        @test isnan(Scalars.acosh(T(0))) && isnan(Scalars.atanh(T(2)))
        @test all(f -> isnan(f(T(Inf))), (Scalars.sin, Scalars.cos, Scalars.tan))
        @test Scalars.log(T(Inf)) === Scalars.log1p(T(Inf)) === T(Inf)
        @test Scalars.log1p(T(-1)) === T(-Inf) && Scalars.log1p(T(0)) === T(0)
        @test Scalars.log(T(0)) === T(-Inf) && Scalars.sqrt(T(0)) === T(0)
        @test Scalars.atan2(T(1), T(-1)) === atan(T(1), T(-1))
    end
end

@testset "maximum and minimum are NaN if either operand is" begin
    for T in (Float32, Float64), f in (Scalars.maximum, Scalars.minimum)
        @test isnan(f(T(NaN), T(1))) && isnan(f(T(1), T(NaN))) && isnan(f(T(NaN), T(NaN)))
    end
    @test Scalars.maximum(1.0, 2.0) === 2.0 && Scalars.maximum(2.0, 1.0) === 2.0
    @test Scalars.minimum(1.0f0, -Inf32) === -Inf32 && Scalars.minimum(3, 2) === 2
end

@testset "power, modulo, wrap" begin
    @test Scalars.power(-2.0, 3.0) === -8.0
    @test isnan(Scalars.power(-2.0, 0.5)) && isnan(Scalars.power(-2.0f0, NaN32))
    @test Scalars.power(0.0, -1.0) === Inf && Scalars.power(2.0f0, 0.5f0) === sqrt(2.0f0)
    @test Scalars.modulo(-1.0, 3.0) === 2.0 && Scalars.modulo(1.0, -3.0) === -2.0
    @test Scalars.modulo(-7, 3) === 2 && isnan(Scalars.modulo(1.0, 0.0))
    @test Scalars.wrap(-1, 5) === 4 && Scalars.wrap(3, 5) === 3
end

@testset "equal programs are one function" begin
    program = "v1 = x1 * x2; v1 + Float64(3.0)"
    f = Scalars.compile(program, 2)
    @test Base.invokelatest(f, 2.0, 5.0) === 13.0
    @test Scalars.compile(program, 2) === f
    @test Scalars.compile("x1 * Float64(7.0)", 1) !== f
    @test_throws ArgumentError Scalars.compile("no_such_function(x1)", 1)
    @test_throws Exception Scalars.compile("x1 +", 1)
end

# The functions that pysemi/compiler/ops/pointwise.py writes.
@testset "there is a scalar function $name" for name in (
        :abs, :acos, :acosh, :asin, :asinh, :atan, :atan2, :atanh, :both, :ceil, :cos, :cosh,
        :either, :erf, :erfc, :exp, :exp2, :expm1, :floor, :ifelse, :inv, :isinf, :isnan, :log,
        :log10, :log1p, :log2, :maximum, :minimum, :modulo, :negation, :power, :rem, :round,
        :sigmoid, :sign, :sin, :sinh, :sqrt, :tan, :tanh, :trunc, :wrap,
    )
    @test isdefined(Scalars, name)
end
