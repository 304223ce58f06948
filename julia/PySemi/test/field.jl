using PySemi: FIELD, JOINT, NOTHING, PULLBACK, ode_function

started(field; options...) = prepare!(
    field; (;
        recording = true, stop = Ptr{PySemi.Stop}(C_NULL), from = 0.0, direction = 1, jumps = Float64[],
        wants_params = true, options...,
    )...
)

@testset "one evaluation answers λᵀ∂f/∂y, λᵀ∂f/∂θ and f at a point" begin
    A = [1.0 2.0; 3.0 4.0]
    field = started(linear_field(A))
    f = ode_function(field)
    λ, y, dλ, dp, dy = [1.0, -1.0], [0.5, 2.0], zeros(2), zeros(4), zeros(2)
    f.vjp(dλ, λ, y, nothing, 0.3)
    f.vjp_p(dp, λ, y, nothing, 0.3)
    f(dy, y, nothing, 0.3)
    @test dλ == A' * λ && dp == vec(λ * y') && dy == A * y
    @test field.roots == Dict("field" => 0, "pullback" => 0, "joint" => 1, "reverse" => 0)
    @test field.tally.nf == 1 && field.tally.nvjp == 1
    @test field.tally.evaluation_times == [0.3]
end

@testset "products with parameters are added up, $(has_program ? "by a program" : "without a program for it")" for has_program in (true, false)
    A = [1.0 2.0; 3.0 4.0]
    given = linear_field(A)
    field = started(
        has_program ? given : Field(given.memory, given.field, given.pullback, given.joint, given.roots)
    )
    (; memory) = field
    points = (([1.0, -1.0], [0.5, 2.0]), ([0.25, 3.0], [-1.0, 1.0]), ([0.25, 3.0], [-1.0, 1.0]))
    fill!(memory.params_bar, 1)
    sum = ones(2, 2)
    for (λ, y) in points
        copyto!(memory.cotangent, λ)
        PySemi.reverse!(field, y, 0.5) # such fields record the state
        sum += λ * y'
        @test memory.y_bar == A' * λ && memory.params_bar == vec(sum)
    end
    @test field.roots[has_program ? "reverse" : "joint"] == 3
    @test field.tally.nvjp == 3 && field.tally.nf == 0
    # What is in memory then is no answer to other questions there.
    dy = zeros(2)
    ode_function(field)(dy, points[3][2], nothing, 0.5)
    @test dy == A * points[3][2]
end

@testset "the latest evaluations are noted" begin
    field = started(growth_field([2.0]))
    f, du = ode_function(field), zeros(1)
    trail = field.trail = PySemi.Trail(field.pool, 2)
    for (t, y) in ((0.0, 1.0), (0.5, 3.0), (0.5, 3.0), (0.25, -1.0))
        f(du, [y], nothing, t)
    end
    latest(i) = (stage = trail.stages[PySemi.place_of(trail, i)]; (stage.slope, stage.record))
    @test latest(4) == ([-2.0], [-1.0]) && PySemi.time_of(trail, 4) == 0.25
    @test latest(3) == ([6.0], [3.0]) && PySemi.time_of(trail, 3) == 0.5 # known, and noted too
    @test PySemi.place_of(trail, 2) === PySemi.place_of(trail, 5) === PySemi.place_of(trail, 0) === nothing
    @test isnan(PySemi.time_of(trail, 2))
    @test started(field).trail === nothing
end

@testset "a record is of the point that is asked for" begin
    A = [1.0 2.0; 3.0 4.0]
    given, runs = linear_field(A), Ref(0)
    recorded = zeros(2)
    record = Thunk() do
        given.field()
        copyto!(recorded, given.memory.y)
        runs[] += 1
        return nothing
    end
    field = started(Field(given.memory, given.field, given.pullback, given.joint, given.roots; record, recorded))
    at(program, y) = PySemi.evaluate!(field, FIELD, program, y, nothing, 0.5)
    at(field.record, [1.0, 0.0])
    at(field.field, [1.0, 0.0]) # known
    at(field.record, [1.0, 0.0])
    @test runs[] == 1 && field.tally.nf == 1
    at(field.field, [0.0, 1.0])
    @test recorded == [1.0, 0.0]
    at(field.record, [0.0, 1.0])
    @test recorded == [0.0, 1.0] && runs[] == 2 && field.tally.nf == 2
    PySemi.reverse!(field, [1.0, 0.0], 0.5)
    at(field.record, [0.0, 1.0])
    @test recorded == [0.0, 1.0] && runs[] == 3
end

@testset "another point, cotangent or time is another evaluation" begin
    field = started(linear_field([1.0 2.0; 3.0 4.0]))
    f = ode_function(field)
    out = zeros(2)
    f(out, [1.0, 1.0], nothing, 0.0)
    f(out, [1.0, 2.0], nothing, 0.0)
    f(out, [1.0, 2.0], nothing, 0.5)
    @test field.tally.nf == 3
    f.vjp(out, [1.0, 0.0], [1.0, 2.0], nothing, 0.5)
    f.vjp(out, [0.0, 1.0], [1.0, 2.0], nothing, 0.5)
    @test out == [3.0, 4.0]
    @test field.tally.nf == 3 && field.tally.nvjp == 2
end

@testset "parameters' products are computed only where they are wanted" begin
    field = started(linear_field([1.0 2.0; 3.0 4.0]); wants_params = false)
    f = ode_function(field)
    f.vjp(zeros(2), ones(2), ones(2), nothing, 0.0)
    @test field.roots == Dict("field" => 0, "pullback" => 1, "joint" => 0, "reverse" => 0)
    params_bar = zeros(4)
    f.vjp_p(params_bar, ones(2), ones(2), nothing, 0.0)
    @test field.roots["joint"] == 1 && params_bar == ones(4)
    @test field.tally.nf == 1
end

@testset "views are written through" begin
    field = started(linear_field([1.0 2.0; 3.0 4.0]))
    whole = zeros(6)
    ode_function(field)(view(whole, 2:3), view([9.0, 1.0, 1.0], 2:3), nothing, 0.0)
    @test whole == [0, 3, 7, 0, 0, 0]
end

@testset "what is prepared anew forgets what it knew" begin
    field = started(linear_field([1.0 2.0; 3.0 4.0]))
    f = ode_function(field)
    out = zeros(2)
    f(out, ones(2), nothing, 0.0)
    field.memory.params .= 1
    started(field)
    f(out, ones(2), nothing, 0.0)
    @test out == [2.0, 2.0] && field.tally.nf == 1
end

@testset "an evaluation allocates nothing" begin
    field = Field(PySemi.read_tape(PySemi.perceptron_tape(Float32, 4)))
    started(field; recording = false)
    f = ode_function(field)
    u, λ, du, dp = randn(Float32, 8), randn(Float32, 8), zeros(Float32, 8), zeros(Float32, 15)
    t = Ref(0.0)
    function question()
        t[] += 0.1
        f(du, u, nothing, t[])
        f.vjp(du, λ, u, nothing, t[])
        f.vjp_p(dp, λ, u, nothing, t[])
        return nothing
    end
    @test allocated(question) == 0
end

@testset "what solvers take is made once, and its type is known" begin
    field = linear_field([1.0 2.0; 3.0 4.0])
    @test (@inferred ode_function(field)) === ode_function(field)
    @test isconcretetype(Base.promote_op(PySemi.new_ode_function, typeof(field)))
end

@testset "Python's signals are looked for on its main thread, and not too often" begin
    # In place of Python's functions: the third look finds an exception.
    looks = Ref(0)
    ensure = @cfunction($(() -> Cint(7)), Cint, ())
    check = @cfunction($(() -> (looks[] += 1) == 3 ? Cint(-1) : Cint(0)), Cint, ())
    fetch = @cfunction(
        $((kind, value, traceback) -> foreach(unsafe_store!, (kind, value, traceback), Ptr{Cvoid}.(11:13))),
        Cvoid, (Ptr{Ptr{Cvoid}}, Ptr{Ptr{Cvoid}}, Ptr{Ptr{Cvoid}})
    )
    released = Ref(0)
    release = @cfunction($(state -> (released[] += state; nothing)), Cvoid, (Cint,))
    functions = (ensure, check, fetch, release)
    before = PySemi.SIGNAL_FUNCTIONS[]
    flag = Ref(PySemi.Stop(0, 1, C_NULL, C_NULL, C_NULL))
    GC.@preserve flag functions try
        PySemi.look_for_signals_by(map(f -> UInt(Base.unsafe_convert(Ptr{Cvoid}, f)), functions)...)
        stop = Base.unsafe_convert(Ptr{PySemi.Stop}, flag)
        for _ in 1:2
            PySemi.LOOKED_AT[] = 0
            foreach(_ -> PySemi.check_stop(stop), 1:1000)
        end
        @test looks[] == 2 && released[] == 14
        PySemi.LOOKED_AT[] = 0
        @test_throws PySemi.Stopped PySemi.check_stop(stop)
        @test flag[] == PySemi.Stop(0, 1, Ptr{Cvoid}(11), Ptr{Cvoid}(12), Ptr{Cvoid}(13))
        @test released[] == 21
        # Where it runs elsewhere, nobody looks.
        flag[] = PySemi.Stop(0, 0, C_NULL, C_NULL, C_NULL)
        PySemi.LOOKED_AT[] = 0
        PySemi.check_stop(stop)
        @test looks[] == 3
    finally
        PySemi.SIGNAL_FUNCTIONS[] = before
    end
end

@testset "a raised flag stops a solve" begin
    flag = Ref(PySemi.Stop(0, 0, C_NULL, C_NULL, C_NULL))
    stop_after(t) = flag[] = PySemi.Stop(t > 0.5, 0, C_NULL, C_NULL, C_NULL)
    counted = programmed(m -> (m.dy .= m.y; stop_after(m.t[1])), _ -> nothing, [1.0], Float64[])
    GC.@preserve flag begin
        stop = Base.unsafe_convert(Ptr{PySemi.Stop}, flag)
        @test_throws PySemi.Stopped solve_ahead(counted, [1.0], [0.0, 10.0]; stop)
        @test counted.tally.reached < 1.0
    end
end

# f is 1 before the jump and 3 after it; the time that f sees is of type T.
integral(t) = t < 0.3 ? t : 0.3 + 3 * (t - 0.3)
step_function(jump) = t -> t < jump ? one(t) : t > jump ? oftype(t, 3) : oftype(t, NaN)

@testset "f is evaluated on the side that is meant, $method, $T, $(torchdiffeq ? "torchdiffeq's control" : "default control")" for
    T in (Float32, Float64), method in ("DP5", "BS3", "Tsit5", "Vern7"), torchdiffeq in (false, true)

    torchdiffeq && !(method in ("DP5", "BS3")) && continue
    controls = Controls(; torchdiffeq)
    jump = 0.3
    field = time_field(step_function(T(jump)), T[1])
    tol = T == Float32 ? 1.0e-4 : 1.0e-8
    near(a, b) = all(isapprox.(vec(a), b; rtol = 100eps(T)))
    options = (; method, controls, tol, jumps = [jump])
    up = solve_ahead(field, T[0], [0.0, 0.2, 0.3, 0.5, 1.0]; options...)
    @test near(up.y, [0, 0.2, 0.3, 0.9, 2.4])
    @test up.tally.rejected == 0
    down = solve_ahead(field, T[0], [1.0, 0.3, 0.0]; options...)
    @test near(down.y, [0, -2.1, -2.4])
    @test down.tally.rejected == 0
    # Without the jump's time, steps are rejected until they are short enough.
    @test solve_ahead(field, T[0], [0.0, 0.2, 0.3 + 1.0e-6, 1.0]; options..., jumps = Float64[]).tally.rejected > 0
    for times in ([0.0, 1.0], [0.0, 0.3, 1.0], [1.0, 0.3, 0.0], [0.3, 1.0], [1.0, 0.3])
        exact = integral(times[end]) - integral(times[1])
        for adjoint in (:backsolve, :gauss)
            adjoint === :gauss && torchdiffeq && continue
            cotangents = T[zeros(1, length(times) - 1) 1]
            both = solve_both(field, T[0], times, cotangents; options..., adjoint)
            @test near(both.params_bar, exact)
            @test both.forward.rejected == 0 && both.backward.rejected == 0
        end
    end
end

const FOREIGN = Ref{Any}(nothing)
const FOREIGN_LEVELS = Int32[]

# y' = θ y, evaluated by a C function; -1 where y is negative.
function foreign_growth(level::Int32, t::Float64)
    push!(FOREIGN_LEVELS, level)
    m = FOREIGN[].memory
    m.y[1] < 0 && return Int32(-1)
    m.dy .= m.params .* m.y
    m.y_bar .= m.params .* m.cotangent
    m.params_bar .= m.cotangent .* m.y
    return Int32(0)
end

@testset "a foreign field is evaluated through its C function" begin
    call = @cfunction(foreign_growth, Int32, (Int32, Float64))
    field = FOREIGN[] = PySemi.foreign_field(Float64, 1, 1, call)
    field.memory.params .= 0.5
    empty!(FOREIGN_LEVELS)
    both = solve_both(field, [2.0], [0.0, 1.0], [0.0 1.0])
    @test both.y[1, 2] ≈ 2exp(0.5) && both.y_bar[1] ≈ exp(0.5) && both.params_bar[1] ≈ 2exp(0.5)
    @test Set(FOREIGN_LEVELS) == Set(Int32.(Int.((FIELD, JOINT))))
    @test count(==(Int32(JOINT)), FOREIGN_LEVELS) == both.backward.nvjp
    @test_throws PySemi.ForeignError solve_ahead(field, [-1.0], [0.0, 1.0])
end
