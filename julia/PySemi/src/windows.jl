# Views as a tape names them, and the loops over them.

"""
    Window(buffer, shape, strides, offset)

Elements of a buffer: `shape` and `strides` in torch's order (the last dimension lies
together), strides in elements; 0 where a dimension is broadcast or has one element.
"""
struct Window
    buffer::Int
    shape::Vector{Int}
    strides::Vector{Int}
    offset::Int
end

"Where the window begins, in a buffer that has an address."
address(buffers, w::Window) = pointer(buffers[w.buffer], w.offset + 1)

Base.length(w::Window) = prod(w.shape; init = 1)
Base.isempty(w::Window) = any(iszero, w.shape)

"Whether the window is a run of neighbouring elements, in their order."
function is_run(w::Window)
    dense = dense_strides(w.shape)
    return all(d -> w.shape[d] <= 1 || w.strides[d] == dense[d], eachindex(dense))
end

"Strides of an array without gaps, 0 for dimensions of one element."
function dense_strides(shape)
    strides = similar(shape)
    step = 1
    for d in reverse(eachindex(shape))
        strides[d] = shape[d] == 1 ? 0 : step
        step *= shape[d]
    end
    return strides
end

"Loop levels of a [`Nest`](@ref); the innermost comes first."
const LEVELS = 6

"""
    Nest{K}

Nested loops over `K` windows of one shape, with as few levels as their strides allow:
neighbouring dimensions over which all the windows run on are one.
"""
struct Nest{K}
    sizes::NTuple{LEVELS, Int}
    strides::NTuple{K, NTuple{LEVELS, Int}}
end

function Nest(windows::Window...)
    K = length(windows)
    shape = first(windows).shape
    dims = [d for d in eachindex(shape) if shape[d] != 1]
    # The first window (the result) decides the order; what it does not move over comes
    # last among equals, so that a reduction's inner loop follows its operand.
    order = sort(dims; by = d -> sort_key(windows, d))
    sizes = Int[]
    strides = [Int[] for _ in 1:K]
    for d in order
        steps = [w.strides[d] for w in windows]
        joins = !isempty(sizes) &&
            all(k -> steps[k] == strides[k][end] * sizes[end], 1:K)
        if joins
            sizes[end] *= shape[d]
        else
            push!(sizes, shape[d])
            foreach(k -> push!(strides[k], steps[k]), 1:K)
        end
    end
    length(sizes) <= LEVELS || throw(
        ArgumentError("a pointwise operation over $(length(sizes)) separate dimensions; at most $LEVELS are supported"),
    )
    fill_up(values, filler) = ntuple(i -> i <= length(values) ? values[i] : filler, LEVELS)
    return Nest{K}(fill_up(sizes, 1), ntuple(k -> fill_up(strides[k], 0), K))
end

"How many of a nest's levels are loops; at least one."
depth(nest::Nest) = something(findlast(!=(1), nest.sizes), 1)

sort_key(windows, d) = map(w -> w.strides[d] == 0 ? typemax(Int) : w.strides[d], windows)

"""
    each_row(f, nest)

Call `f(offsets)`, the windows' offsets in elements, for each run of the innermost loop.
"""
@inline function each_row(f::F, nest::Nest{K}) where {F, K}
    _, n2, n3, n4, n5, n6 = nest.sizes
    for i6 in 0:(n6 - 1), i5 in 0:(n5 - 1), i4 in 0:(n4 - 1), i3 in 0:(n3 - 1), i2 in 0:(n2 - 1)
        offsets = ntuple(Val(K)) do k
            s = nest.strides[k]
            i2 * s[2] + i3 * s[3] + i4 * s[4] + i5 * s[5] + i6 * s[6]
        end
        f(offsets)
    end
    return nothing
end

# Kernels whose access depends on data are written once, for pointers and for arrays.
@inline load(p::Ptr, i) = unsafe_load(p, i)
@inline load(x::AbstractArray, i) = @inbounds x[i]
@inline store!(p::Ptr, value, i) = unsafe_store!(p, value, i)
@inline store!(x::AbstractArray, value, i) = @inbounds x[i] = value
