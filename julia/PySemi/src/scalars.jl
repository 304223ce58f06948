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
for name in (:sqrt, :log, :log2, :log10, :asin, :acos, :acosh, :atanh, :log1p, :sin, :cos, :tan)
    inside = name === :sqrt ? :(x >= 0) :
        name in (:log, :log2, :log10) ? :(x >= 0) :
        name === :log1p ? :(x >= -1) :
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

const COMPILED = Dict{String, Function}()

"""
    compile(program, inputs)

The Julia function of `inputs` arguments `x1, x2, ...` that a pointwise program describes:
statements `v1 = ...` separated by `; `, the last one the result. Equal programs are one
function, so that a kernel is compiled once per process.
"""
function compile(program::AbstractString, inputs::Integer)
    return Base.get!(() -> Core.eval(Scalars, parsed(program, inputs)), COMPILED, "$inputs: $program")
end

function parsed(program, inputs)
    args = join(("x$i" for i in 1:inputs), ", ")
    expression = Meta.parse("@inline function ($args); $program; end")
    check_calls(expression)
    return expression
end

"That every function which is called exists; otherwise it is missed where the kernel runs."
check_calls(_) = nothing
function check_calls(expression::Expr)
    called = expression.head === :call ? expression.args[1] : :identity
    called isa Symbol && !isdefined(Scalars, called) &&
        throw(ArgumentError("pointwise programs know no function $called"))
    return foreach(check_calls, expression.args)
end

# The programs of the commonest layers, compiled with the package.
for (inputs, program) in (
        (1, "x1"), (1, "-x1"), (2, "x1 + x2"), (2, "x1 - x2"), (2, "x1 * x2"),
        (2, "v1 = x1 + x2; tanh(v1)"), (2, "v1 = x1 + x2; sigmoid(v1)"),
        ((2, "v1 = x1 + x2; maximum(v1, $T(0.0))") for T in ("Float32", "Float64"))...,
        ((2, "v1 = x2 * x2; v2 = $T(1.0) - v1; x1 * v2") for T in ("Float32", "Float64"))...,
        ((2, "v1 = x1 <= $T(0.0); ifelse(v1, $T(0.0), x2)") for T in ("Float32", "Float64"))...,
    )
    COMPILED["$inputs: $program"] = @eval $(parsed(program, inputs))
end

end # module
