# Kernels whose memory access depends on data. Indices count from 0, as torch's do.

"That an index is one of `count`."
@inline check_index(index, count) =
    0 <= index < count || throw(BoundsError(0:(count - 1), index))

"Copy the window that lies `index * step` elements further on; `index` is read at run time."
struct MovingWindow{T} <: Function
    out::Ptr{T}
    from::Ptr{T}
    index::Ptr{Int}
    step::Int
    count::Int
    nest::Nest{2}
end

MovingWindow(buffers, out::Window, from::Window, index::Window, step, count) = MovingWindow(
    address(buffers, out), address(buffers, from), address(buffers, index), step, count,
    Nest(out, from)
)

function (k::MovingWindow)()
    index = unsafe_load(k.index)
    check_index(index, k.count)
    from = element(k.from, index * k.step)
    n = k.nest.sizes[1]
    out_step, from_step = k.nest.strides[1][1], k.nest.strides[2][1]
    each_row(k.nest) do (to, at)
        target, source = element(k.out, to), element(from, at)
        for i in 0:(n - 1)
            unsafe_store!(target, unsafe_load(source, i * from_step + 1), i * out_step + 1)
        end
    end
    return nothing
end

"`out[i] = from[indices[i]]`."
struct Take{T} <: Function
    out::Ptr{T}
    from::Ptr{T}
    available::Int
    indices::Ptr{Int}
    count::Int
end

Take(buffers, out::Window, from::Window, indices::Window) = Take(
    address(buffers, out), address(buffers, from), length(from), address(buffers, indices),
    length(indices)
)

@inline function taken(from, available, index)
    check_index(index, available)
    return load(from, index + 1)
end

function (k::Take)()
    for i in 1:(k.count)
        unsafe_store!(k.out, taken(k.from, k.available, unsafe_load(k.indices, i)), i)
    end
    return nothing
end

"`out[indices[i]] = join(out[indices[i]], values[i])`, one after the other."
struct Put{F, T} <: Function
    join::F
    out::Ptr{T}
    available::Int
    indices::Ptr{Int}
    values::Ptr{T}
    count::Int
end

Put(join, buffers, out::Window, indices::Window, values::Window) = Put(
    join, address(buffers, out), length(out), address(buffers, indices), address(buffers, values),
    length(values)
)

function (k::Put)()
    for i in 1:(k.count)
        index = unsafe_load(k.indices, i)
        check_index(index, k.available)
        value = unsafe_load(k.values, i)
        old = unsafe_load(k.out, index + 1)
        unsafe_store!(k.out, k.join(old, value), index + 1)
    end
    return nothing
end

"The place of each value among increasing edges: edges before it are smaller (or equal, if `right`)."
struct SearchSorted{T} <: Function
    out::Ptr{Int}
    values::Ptr{T}
    count::Int
    edges::Ptr{T}
    nedges::Int
    right::Bool
end

SearchSorted(buffers, out::Window, values::Window, edges::Window, right) = SearchSorted(
    address(buffers, out), address(buffers, values), length(values), address(buffers, edges),
    length(edges), right
)

@inline function place_among(value, edges, nedges, right)
    low, high = 0, nedges
    while low < high
        middle = (low + high) >>> 1
        edge = load(edges, middle + 1)
        before = right ? !(edge > value) : !(edge >= value)
        before ? (low = middle + 1) : (high = middle)
    end
    return low
end

function (k::SearchSorted)()
    for i in 1:(k.count)
        value = unsafe_load(k.values, i)
        unsafe_store!(k.out, place_among(value, k.edges, k.nedges, k.right), i)
    end
    return nothing
end
