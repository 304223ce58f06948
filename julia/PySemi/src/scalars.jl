module Scalars

# The functions that pointwise programs may call, beyond Julia's own. Programs are written
# by pysemi/compiler/ops/pointwise.py in a syntax that Python shares, hence names such as
# `both` for `&`.

using SpecialFunctions: digamma, erf, erfc, erfcx, logabsgamma, trigamma
using SpecialFunctions: SpecialFunctions

"The larger of two numbers; NaN if either is, as in torch."
@inline maximum(a::T, b::T) where {T <: AbstractFloat} = ifelse((a > b) | isnan(a), a, b)
@inline maximum(a::T, b::T) where {T <: Real} = max(a, b)
"The smaller of two numbers; NaN if either is, as in torch."
@inline minimum(a::T, b::T) where {T <: AbstractFloat} = ifelse((a < b) | isnan(a), a, b)
@inline minimum(a::T, b::T) where {T <: Real} = min(a, b)

@inline atan2(y::T, x::T) where {T <: AbstractFloat} = atan(y, x)

@inline both(a::Bool, b::Bool) = a & b
@inline either(a::Bool, b::Bool) = a | b
@inline negation(a::Bool) = !a

"Index `i` counted from the end of `n` places where it is negative."
@inline wrap(i::T, n::T) where {T <: Integer} = ifelse(i < zero(T), i + n, i)

"The remainder with the divisor's sign."
@inline modulo(a::T, b::T) where {T} = mod(a, b)

"`x` to the power `y`; NaN where Julia would throw."
@inline function power(x::T, y::T) where {T <: AbstractFloat}
    return ((x < 0) & (y != trunc(y))) ? T(NaN) : x^y
end

"The logarithm of |Γ(x)|."
@inline lgamma(x::T) where {T <: AbstractFloat} =
    isfinite(x) ? T(first(logabsgamma(x))) : abs(x)

@inline erfinv(x::T) where {T <: AbstractFloat} =
    abs(x) <= 1 ? SpecialFunctions.erfinv(x) : T(NaN)

# torch's functions return NaN outside their domain, Julia's throw.
for name in (:sqrt, :log2, :log10, :asin, :acos, :acosh, :atanh, :sin, :cos, :tan)
    inside = name in (:sqrt, :log2, :log10) ? :(x >= 0) :
        name === :acosh ? :(x >= 1) :
        name in (:sin, :cos, :tan) ? :(isfinite(x)) : :(abs(x) <= 1)
    @eval @inline $name(x::T) where {T <: AbstractFloat} = $inside ? Base.$name(x) : T(NaN)
end
@inline sqrt(x::Union{Float32, Float64}) = Base.sqrt_llvm(x)

"The logistic function; to full precision also where it is next to zero."
@inline function sigmoid(x::T) where {T <: AbstractFloat}
    e = exp(-abs(x))
    return ifelse(x < 0, e, one(T)) / (one(T) + e)
end

"""
    exp(x)

Base's `exp`, written without branches so that a loop over it becomes vector instructions.

Cody-Waite reduction to |r| <= log(2)/2 and a polynomial there (degree 7 and 13, the
Taylor series, whose next term is below half an ulp).
"""
@inline function exp(x::Float32)
    lo, hi = -104.0f0, 89.0f0
    c = ifelse(x > lo, ifelse(x < hi, x, hi), lo)
    k = round(c * 1.442695f0)
    r = muladd(k, -0.6933594f0, c)
    r = muladd(k, 2.1219444f-4, r)
    p = evalpoly(
        r,
        (
            1.0f0, 1.0f0, 0.5f0, 0.16666667f0, 0.041666668f0, 0.008333334f0,
            0.0013888889f0, 0.0001984127f0,
        )
    )
    # Two factors, so that results below the smallest normal number come out right.
    n = unsafe_trunc(Int32, k)
    a = n >> 1
    y = p * power_of_two(a) * power_of_two(n - a)
    return ifelse(isnan(x), x, ifelse(x >= hi, Inf32, y))
end
@inline function exp(x::Float64)
    lo, hi = -746.0, 710.0
    c = ifelse(x > lo, ifelse(x < hi, x, hi), lo)
    # Adding 3 * 2^51 leaves the integer in the lowest bits: a conversion would not be a
    # vector instruction before AVX-512.
    shift = 6.755399441055744e15
    shifted = muladd(c, 1.4426950408889634, shift)
    k = shifted - shift
    r = muladd(k, -0.693145751953125, c)
    r = muladd(k, -1.4286068203094173e-6, r)
    p = evalpoly(
        r,
        (
            1.0, 1.0, 0.5, 0.16666666666666666, 0.041666666666666664,
            0.008333333333333333, 0.001388888888888889, 0.0001984126984126984,
            2.48015873015873e-5, 2.7557319223985893e-6, 2.755731922398589e-7,
            2.505210838544172e-8, 2.08767569878681e-9, 1.6059043836821613e-10,
        )
    )
    n = reinterpret(Int64, shifted) - reinterpret(Int64, shift)
    a = ((n + 2048) >>> 1) - 1024
    y = p * power_of_two(a) * power_of_two(n - a)
    return ifelse(isnan(x), x, ifelse(x >= hi, Inf, y))
end

@inline power_of_two(n::Int32) = reinterpret(Float32, (n + Int32(127)) << 23)
@inline power_of_two(n::Int64) = reinterpret(Float64, (n + 1023) << 52)

"""
    tanh(x)

Without branches: `1 - 2 / (exp(2|x|) + 1)`, and near zero an odd polynomial or, in double
precision, `x + x³ p/q` with p/q equal to `(tanh(x)/x - 1) / x²` at six Chebyshev nodes of
x² <= 0.39 (6e-18 off between them); one division serves both.
"""
@inline function tanh(x::Float32)
    a = ifelse(abs(x) < 9.1f0, abs(x), 9.1f0)
    e = exp(2 * a)
    large = 1.0f0 - 2.0f0 / (e + 1.0f0)
    s = a * a
    small = a * evalpoly(
        s,
        (
            1.0f0, -0.33333334f0, 0.13333334f0, -0.053968254f0, 0.021869488f0,
            -0.008863236f0, 0.003592128f0, -0.0014558344f0,
        )
    )
    y = ifelse(a < 0.55f0, small, large)
    return ifelse(isnan(x), x, copysign(y, x))
end
@inline function tanh(x::Float64)
    a = ifelse(abs(x) < 22.0, abs(x), 22.0)
    s = a * a
    near = a < 0.625
    p = evalpoly(s, (-1613.9423211213955, -99.25162809953557, -0.9643850439830097))
    q = evalpoly(s, (4841.826963364187, 2234.4856696442644, 112.77258130262922, 1.0))
    y = ifelse(near, a, 1.0) + ifelse(near, a * s * p, -2.0) / ifelse(near, q, exp(2 * a) + 1.0)
    return ifelse(isnan(x), x, copysign(y, x))
end

"""
    log(x)

Without branches: x = 2ᵏ m with 1/√2 <= m < √2, and log(m) = f - s (f - 2 s² p(s²)), where
f = m - 1, s = f / (2 + f), and p is the series 1/3 + s²/5 + s⁴/7 + ... of atanh.
"""
@inline function log(x::Float32)
    tiny = x < 1.1754944f-38
    bits = reinterpret(Int32, ifelse(tiny, x * 1.6777216f7, x))
    k = (bits - Int32(0x3f3504f3)) >> 23
    f = reinterpret(Float32, bits - (k << 23)) - 1.0f0
    s = f / (2.0f0 + f)
    z = s * s
    p = evalpoly(z, (0.6666667f0, 0.4f0, 0.2857143f0, 0.22222222f0))
    e = Float32(k - ifelse(tiny, Int32(24), Int32(0)))
    y = muladd(e, 0.6931381f0, f - (s * (f - z * p) - e * 9.0580006f-6))
    return outside(x, y)
end
@inline function log(x::Float64)
    tiny = x < 2.2250738585072014e-308
    bits = reinterpret(Int64, ifelse(tiny, x * 1.8014398509481984e16, x))
    # Shifted as an unsigned number, and made one of floating point by adding 3 * 2^51:
    # either would not be a vector instruction otherwise before AVX-512.
    k = ((bits - 0x3fe6a09e667f3bcd % Int64 + (1024 << 52)) >>> 52) - 1024
    f = reinterpret(Float64, bits - (k << 52)) - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = evalpoly(
        z,
        (
            0.6666666666666666, 0.4, 0.2857142857142857, 0.2222222222222222,
            0.18181818181818182, 0.15384615384615385, 0.13333333333333333,
            0.11764705882352941, 0.10526315789473684, 0.09523809523809523,
        )
    )
    e = reinterpret(Float64, k - ifelse(tiny, 54, 0) + 0x4338000000000000 % Int64) - 6.755399441055744e15
    y = muladd(e, 0.6931471803691238, f - (s * (f - z * p) - e * 1.9082149292705877e-10))
    return outside(x, y)
end

"What is right of a logarithm's `y` at 0, at infinity, and for numbers that have none."
@inline function outside(x::T, y::T) where {T}
    return ifelse(x > 0, ifelse(x < T(Inf), y, x), ifelse(x == 0, T(-Inf), T(NaN)))
end

"""
    log1p(x)

The logarithm of 1 + x: with u the sum as it is rounded, log(u) + (x - (u - 1)) / u.
"""
@inline function log1p(x::T) where {T <: AbstractFloat}
    u = one(T) + x
    y = log(u) + (x - (u - one(T))) / u
    return ifelse(isfinite(u) & (u > 0), y, log(u))
end

const COMPILED = Dict{String, Function}()

"""
    compile(program, inputs)

The Julia function of `inputs` arguments `x1, x2, ...` that a pointwise program describes:
statements `v1 = ...` separated by `; `, the last one the result. Equal programs are one
function, so that a kernel is compiled once per process.
"""
function compile(program::AbstractString, inputs::Integer)
    return Base.get!(() -> Core.eval(Scalars, parsed(program, inputs)), COMPILED, key(program, inputs))
end

"Under which `COMPILED` has a program."
key(program, inputs) = "$inputs: $program"

"The function as Julia code."
function source(program, inputs)
    args = join(("x$i" for i in 1:inputs), ", ")
    return "@inline function ($args); $program; end"
end

function parsed(program, inputs)
    expression = Meta.parse(source(program, inputs))
    check_calls(expression)
    return expression
end

"Names of the functions that a program calls."
called(_) = Symbol[]
function called(expression::Expr)
    names = mapreduce(called, vcat, expression.args; init = Symbol[])
    first = expression.head === :call ? expression.args[1] : nothing
    return first isa Symbol ? push!(names, first) : names
end

"That every function which is called exists; otherwise it is missed where the kernel runs."
function check_calls(expression)
    for name in called(expression)
        isdefined(Scalars, name) || throw(ArgumentError("pointwise programs know no function $name"))
    end
    return nothing
end

"Names that a program calls and that do not mean here what they mean in another module."
vocabulary(program, inputs) = filter(called(Meta.parse(source(program, inputs)))) do name
    isdefined(Scalars, name) || return false
    return !isdefined(Base, name) || getglobal(Scalars, name) !== getglobal(Base, name)
end

# The programs of the commonest layers, compiled with the package.
for (inputs, program) in (
        (1, "x1"), (1, "-x1"), (2, "x1 + x2"), (2, "x1 - x2"), (2, "x1 * x2"),
        (2, "v1 = x1 + x2; tanh(v1)"), (2, "v1 = x1 + x2; sigmoid(v1)"),
        ((2, "v1 = x1 + x2; maximum(v1, $T(0.0))") for T in ("Float32", "Float64"))...,
        ((2, "v1 = x2 * x2; v2 = $T(1.0) - v1; x1 * v2") for T in ("Float32", "Float64"))...,
        ((2, "v1 = x1 <= $T(0.0); ifelse(v1, $T(0.0), x2)") for T in ("Float32", "Float64"))...,
    )
    COMPILED[key(program, inputs)] = @eval $(parsed(program, inputs))
end

end # module
