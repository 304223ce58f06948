# Kernels whose memory access depends on data. Indices count from 0, as torch's do.

"Copy the window that lies `index * step` elements further on; `index` is read at run time."
struct MovingWindow{T} <: Function
    out::Ptr{T}
    from::Ptr{T}
    index::Ptr{Int}
    step::Int
    count::Int
    nest::Nest{2}
end

function (k::MovingWindow)()
    index = unsafe_load(k.index)
    0 <= index < k.count || throw(BoundsError(1:k.count, index + 1))
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

function (k::Take)()
    for i in 1:(k.count)
        index = unsafe_load(k.indices, i)
        0 <= index < k.available || throw(BoundsError(1:(k.available), index + 1))
        unsafe_store!(k.out, unsafe_load(k.from, index + 1), i)
    end
    return nothing
end

"`out[indices[i]] = values[i]`, or `+=` if `add`."
struct Put{T} <: Function
    out::Ptr{T}
    available::Int
    indices::Ptr{Int}
    values::Ptr{T}
    count::Int
    add::Bool
end

function (k::Put{T})() where {T}
    for i in 1:(k.count)
        index = unsafe_load(k.indices, i)
        0 <= index < k.available || throw(BoundsError(1:(k.available), index + 1))
        value = unsafe_load(k.values, i)
        old = unsafe_load(k.out, index + 1)
        unsafe_store!(k.out, k.add ? old + value : value, index + 1)
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

function (k::SearchSorted)()
    for i in 1:(k.count)
        value = unsafe_load(k.values, i)
        low, high = 0, k.nedges
        while low < high
            middle = (low + high) >>> 1
            edge = unsafe_load(k.edges, middle + 1)
            before = k.right ? !(edge > value) : !(edge >= value)
            before ? (low = middle + 1) : (high = middle)
        end
        unsafe_store!(k.out, low, i)
    end
    return nothing
end
