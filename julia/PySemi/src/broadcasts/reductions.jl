"""
    ReductionCall(op, buffers, out, from, adds)

Reduce `from` into `out`, two windows of one shape of which `out` has stride 0 over the
dimensions that are reduced, by the arrays' own reduction; where it `adds`, to what is there.
"""
struct ReductionCall{Op, T, R, A, O} <: Function
    op::Op
    start::T
    result::R
    from::A
    out::O
    adds::Bool
end

# GPU libraries know the neutral element of Julia's own, which pass NaN on as torch's do.
known_reduction(op) = op
known_reduction(::typeof(Scalars.maximum)) = max
known_reduction(::typeof(Scalars.minimum)) = min

function ReductionCall(op, buffers, out::Window, from::Window, adds::Bool)
    nest = Nest(out, from)
    levels = Val(depth(nest))
    sizes = ntuple(i -> nest.sizes[i], levels)
    to_strides, strides = map(s -> ntuple(i -> s[i], levels), nest.strides)
    kept = map((n, step) -> step == 0 ? min(n, 1) : n, sizes, to_strides)
    to = array_of(buffers[out.buffer], kept, to_strides, out.offset)
    memory = buffers[from.buffer]
    # Libraries reduce into arrays of their own only.
    result = to isa Strided ? similar(memory, kept) : to
    start = reduction_start(op, eltype(memory))
    operand = array_of(memory, sizes, strides, from.offset)
    return ReductionCall(known_reduction(op), start, result, operand, to, adds)
end

function (r::ReductionCall)()
    if !r.adds
        fill!(r.result, r.start)
    elseif r.out !== r.result
        copyto_broadcast!(r.result, r.out)
    end
    isempty(r.from) || Base.mapreducedim!(identity, r.op, r.result, r.from)
    r.out === r.result || copyto_broadcast!(r.out, r.result)
    return nothing
end
