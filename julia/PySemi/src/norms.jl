# Norms that decide whether a step is accepted; pysemi/norms.py says what each is for.

using Adapt: Adapt

"""
    ComponentNorm(components, weights = T[])

The largest root mean square of some parts of the state; what is in no part does not count.

Of the augmented state `[λ; a_θ; y]`, components for λ and y alone make the adjoint seminorm
(Kidger, Chen & Lyons 2021, section 2.2); with one more for each parameter tensor it is
torchdiffeq's mixed norm (ibid., Appendix A).

# Arguments
- `components`: ranges of indices.
- `weights`: empty, or one weight for each index of the state; an index of weight 0 does not
  count towards its component's mean.
"""
struct ComponentNorm{T, V <: AbstractVector{T}} <: Function
    components::Vector{UnitRange{Int}}
    weights::V
    counts::Vector{Int}
end

function ComponentNorm(components, weights::AbstractVector = Float64[])
    if isempty(weights) && !any(isempty, components)
        return ComponentNorm(components, weights, map(length, components))
    end
    counts = map(components) do range
        isempty(weights) ? length(range) : count(!iszero, view(weights, range))
    end
    kept = findall(!iszero, counts)
    return ComponentNorm(components[kept], weights, counts[kept])
end

# The solvers also ask for the norm of single numbers, when they scale the error estimate.
(::ComponentNorm)(u::Number, _) = abs(u)

"What a norm becomes inside of a GPU's kernel, which sees single numbers only."
struct NormOfNumbers <: Function end
(::NormOfNumbers)(u::Number, _) = abs(u)
Adapt.adapt_structure(_, ::ComponentNorm) = NormOfNumbers()

function (norm::ComponentNorm)(u::AbstractArray, _)
    largest = zero(real(eltype(u)))
    for (range, count) in zip(norm.components, norm.counts)
        part = view(u, range)
        squares = isempty(norm.weights) ? sum_of_squares(part) :
            mapreduce((x, w) -> abs2(w * x), +, part, view(norm.weights, range))
        # `max` would do, but for a NaN in the first part it is slower than this.
        rms = sqrt(oftype(largest, squares / count))
        largest = (rms > largest) | isnan(rms) ? rms : largest
        isnan(largest) && return largest
    end
    return largest
end

sum_of_squares(part) = sum(abs2, part)
function sum_of_squares(part::SubArray{T, 1, Vector{T}}) where {T}
    total = zero(T)
    @inbounds @simd for i in eachindex(part)
        total += abs2(part[i])
    end
    return total
end

"""
    ForeignNorm(call, n)

A norm computed by Python: `call(pointer, n)` on `n` numbers in a row.
"""
struct ForeignNorm{T} <: Function
    call::Ptr{Cvoid}
    dense::Vector{T}
end

(::ForeignNorm)(u::Number, _) = abs(u)
function (norm::ForeignNorm{T})(u::AbstractArray, _) where {T}
    copyto!(norm.dense, u)
    value = GC.@preserve norm ccall(
        norm.call, Cdouble, (Ptr{T}, Int64), norm.dense, length(norm.dense)
    )
    # A Python exception cannot pass through here; the caller keeps it and answers -1.
    value == -1.0 && throw(ForeignError())
    return T(value)
end

"A function of Python's raised an exception, which Python keeps and raises again."
struct ForeignError <: Exception end
Base.showerror(io::IO, ::ForeignError) = print(io, "a Python function raised an exception")
