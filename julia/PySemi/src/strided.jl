# Windows as arrays, for buffers of any kind: a GPU's memory has no elements to loop over.

using Adapt: Adapt

"""
    Strided(memory, sizes, strides, offset)

Elements of a vector, `strides` apart, as an array that broadcasts read and write wherever
they run: its memory moves to the device as every array does, and the rest are numbers.
"""
struct Strided{T, N, V <: AbstractVector{T}} <: AbstractArray{T, N}
    memory::V
    sizes::NTuple{N, Int}
    strides::NTuple{N, Int}
    offset::Int
end

Base.size(x::Strided) = x.sizes
Base.parent(x::Strided) = x.memory

@inline place(x::Strided{T, N}, I::NTuple{N, Int}) where {T, N} =
    x.offset + 1 + sum(map((i, step) -> (i - 1) * step, I, x.strides))

Base.@propagate_inbounds Base.getindex(x::Strided{T, N}, I::Vararg{Int, N}) where {T, N} =
    x.memory[place(x, I)]
Base.@propagate_inbounds Base.setindex!(x::Strided{T, N}, value, I::Vararg{Int, N}) where {T, N} =
    x.memory[place(x, I)] = value

Adapt.adapt_structure(to, x::Strided) =
    Strided(Adapt.adapt(to, x.memory), x.sizes, x.strides, x.offset)

Base.BroadcastStyle(::Type{<:Strided{T, N, V}}) where {T, N, V} =
    typeof(Base.BroadcastStyle(V))(Val(N))

"""
    array_of(memory, sizes, strides, offset)

The elements as an array of the memory's own kind where they lie together, in their order;
libraries know what to do with it. As a [`Strided`](@ref) elsewhere.
"""
function array_of(memory, sizes::NTuple{N, Int}, strides::NTuple{N, Int}, offset) where {N}
    count = prod(sizes)
    together = true
    step = 1
    for (n, stride) in zip(sizes, strides)
        together &= n == 1 || stride == step
        step *= n
    end
    count == 0 && return reshape(view(memory, 1:0), sizes)
    together || return Strided(memory, sizes, strides, offset)
    return reshape(view(memory, (offset + 1):(offset + count)), sizes)
end

"A window as an array; Julia's first dimension is torch's last."
array_of(buffers, w::Window) =
    array_of(buffers[w.buffer], Tuple(reverse(w.shape)), Tuple(reverse(w.strides)), w.offset)

"""
    arrays_of(memories, windows)

Windows of one shape as arrays of one number of dimensions, as few as their strides allow. A
dimension over which a window stays where it is has one element there, which broadcasts repeat.
"""
function arrays_of(memories, windows)
    nest = Nest(windows...)
    levels = Val(depth(nest))
    return map(memories, windows, nest.strides) do memory, w, strides
        sizes = ntuple(i -> strides[i] == 0 ? min(nest.sizes[i], 1) : nest.sizes[i], levels)
        array_of(memory, sizes, ntuple(i -> strides[i], levels), w.offset)
    end
end
