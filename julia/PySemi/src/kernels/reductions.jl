# Sums, products, maxima and minima over some dimensions.

"""
    Reduction{Op, T}

Reduce `from` into `out`, two windows of one shape of which `out` has stride 0 over the
dimensions that are reduced. `each` runs over the results once, to start from `start`; where the
reduction `adds`, they start from what is there.
"""
struct Reduction{Op, T} <: Function
    op::Op
    start::T
    out::Ptr{T}
    from::Ptr{T}
    each::Nest{1}
    nest::Nest{2}
    adds::Bool
end

reduction_start(::typeof(+), ::Type{T}) where {T} = zero(T)
reduction_start(::typeof(*), ::Type{T}) where {T} = one(T)
reduction_start(::typeof(Scalars.maximum), ::Type{T}) where {T} = typemin(T)
reduction_start(::typeof(Scalars.minimum), ::Type{T}) where {T} = typemax(T)

function Reduction(op, buffers, out::Window, from::Window, adds::Bool)
    kept = findall(d -> out.strides[d] != 0 || out.shape[d] == 1, eachindex(out.shape))
    results = Window(out.buffer, out.shape[kept], out.strides[kept], out.offset)
    start = reduction_start(op, eltype(buffers[out.buffer]))
    return Reduction(
        op, start, address(buffers, out), address(buffers, from), Nest(results), Nest(from, out), adds
    )
end

function (r::Reduction{Op, T})() where {Op, T}
    (; op, start, out, from, nest) = r
    r.adds || start_anew!(r)
    n = nest.sizes[1]
    from_step, out_step = nest.strides[1][1], nest.strides[2][1]
    each_row(nest) do (at, to)
        source, target = element(from, at), element(out, to)
        if out_step == 0
            unsafe_store!(target, op(unsafe_load(target), fold_row(op, start, source, from_step, n)))
        elseif out_step == 1 && from_step == 1
            @simd ivdep for i in 1:n
                unsafe_store!(target, op(unsafe_load(target, i), unsafe_load(source, i)), i)
            end
        else
            for i in 0:(n - 1)
                value = op(unsafe_load(target, i * out_step + 1), unsafe_load(source, i * from_step + 1))
                unsafe_store!(target, value, i * out_step + 1)
            end
        end
    end
    return nothing
end

function start_anew!(r::Reduction)
    (; start, out, each) = r
    step = each.strides[1][1]
    each_row(each) do (offset,)
        to = element(out, offset)
        for i in 0:(each.sizes[1] - 1)
            unsafe_store!(to, start, i * step + 1)
        end
    end
    return nothing
end

@inline function fold_row(op::Op, start::T, source::Ptr{T}, step, n) where {Op, T}
    total = start
    if step == 1
        @simd for i in 1:n
            total = op(total, unsafe_load(source, i))
        end
    else
        for i in 0:(n - 1)
            total = op(total, unsafe_load(source, i * step + 1))
        end
    end
    return total
end
