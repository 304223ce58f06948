"""
    ReductionCall(op, buffers, out, from)

Reduce `from` into `out`, two windows of one shape of which `out` has stride 0 over the
dimensions that are reduced, by the arrays' own reduction.
"""
struct ReductionCall{Op, T, R, A, O} <: Function
    op::Op
    start::T
    result::R
    from::A
    out::O
end

# GPU libraries know the neutral element of Julia's own, which pass NaN on as torch's do.
known_reduction(op) = op
known_reduction(::typeof(Scalars.maximum)) = max
known_reduction(::typeof(Scalars.minimum)) = min

function ReductionCall(op, buffers, out::Window, from::Window)
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
    return ReductionCall(known_reduction(op), start, result, operand, to)
end

function (r::ReductionCall)()
    fill!(r.result, r.start)
    isempty(r.from) || Base.mapreducedim!(identity, r.op, r.result, r.from)
    r.out === r.result || copyto_broadcast!(r.out, r.result)
    return nothing
end
