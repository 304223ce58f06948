# One scalar function over windows of one shape.

"How the innermost loop reads or writes an operand: each kind compiles to its own code."
abstract type Access{T} end

"Neighbouring elements."
struct Run{T} <: Access{T}
    at::Ptr{T}
end
"Elements a fixed distance apart."
struct Stride{T} <: Access{T}
    at::Ptr{T}
    step::Int
end
"One element, read once."
struct Single{T} <: Access{T}
    value::T
end

@inline get(x::Run, i) = unsafe_load(x.at, i + 1)
@inline get(x::Stride, i) = unsafe_load(x.at, i * x.step + 1)
@inline get(x::Single, _) = x.value
@inline put!(x::Run, value, i) = unsafe_store!(x.at, value, i + 1)
@inline put!(x::Stride, value, i) = unsafe_store!(x.at, value, i * x.step + 1)

# Which of these an operand is, as a value: tuples of them have a type of their own.
struct AsRun end
struct AsStride end
struct AsSingle end

@inline access(::AsRun, p::Ptr, _) = Run(p)
@inline access(::AsStride, p::Ptr, step) = Stride(p, step)
@inline access(::AsSingle, p::Ptr, _) = Single(unsafe_load(p))

"How an operand moves in the innermost loop; the result is never a single element there."
movement(step) = step == 1 ? AsRun() : step == 0 ? AsSingle() : AsStride()
result_movement(step) = step == 1 ? AsRun() : AsStride()

@inline element(p::Ptr{T}, offset) where {T} = p + offset * sizeof(T)

"""
    PointwiseLoop(f, buffers, out, args)

`out .= f.(args...)` as loops over memory.
"""
struct PointwiseLoop{F, O, A <: Tuple, R, K <: Tuple, N} <: Function
    f::F
    out::Ptr{O}
    args::A
    result_kind::R
    kinds::K
    nest::Nest{N}
end

# Not for each `f` anew: there are many, and each is used here once.
function PointwiseLoop(@nospecialize(f), buffers, out::Window, args)
    nest = Nest(out, args...)
    steps = map(first, nest.strides)
    return PointwiseLoop(
        f, address(buffers, out), Tuple(address(buffers, arg) for arg in args),
        result_movement(first(steps)), map(movement, Base.tail(steps)), nest
    )
end

function (kernel::PointwiseLoop)()
    (; f, out, args, result_kind, kinds, nest) = kernel
    n = nest.sizes[1]
    steps = map(first, nest.strides)
    each_row(nest) do offsets
        to = access(result_kind, element(out, first(offsets)), first(steps))
        from = map(kinds, args, Base.tail(offsets), Base.tail(steps)) do kind, arg, offset, step
            access(kind, element(arg, offset), step)
        end
        row!(f, to, from, n)
    end
    return nothing
end

"""
    pointwise_loop(f, buffers, out, args)

The kernel that computes `out .= f.(args...)`.

Where rows are short only since an operand is the same short row for each of them (the bias of
a layer of few units), that is repeated first, for rows of several at a time: tanh over rows of
4 took 2.7 µs for 256 elements, and 0.3 µs so.
"""
function pointwise_loop(@nospecialize(f), buffers, out::Window, args)
    loop = PointwiseLoop(f, buffers, out, args)
    count = rows_at_a_time(loop.nest)
    count == 1 && return loop
    (; nest) = loop
    n, rows = nest.sizes
    repeats = Thunk[]
    operands = map(Base.tail(nest.strides), loop.args) do strides, from
        strides[1] == 1 && strides[2] == 0 || return from
        row = Repeat(from, n, Vector{eltype(from)}(undef, n * count))
        push!(repeats, thunk(row))
        return pointer(row.to)
    end
    sizes = (n * count, rows ÷ count, nest.sizes[3:end]...)
    strides = map(s -> (s[1], s[2] * count, s[3:end]...), nest.strides)
    joined = PointwiseLoop(
        f, loop.out, operands, loop.result_kind, loop.kinds, typeof(nest)(sizes, strides)
    )
    return TapeProgram([repeats; thunk(joined)])
end

"Elements of a row in which what each row costs no longer counts."
const LONG_ROW = 512

"How many of the rows of a nest can be one, if operands that are the same for each are repeated."
function rows_at_a_time(nest)
    n, rows = nest.sizes
    goes_on(s) = s[1] == 1 && s[2] == n
    is_same(s) = s[1] in (0, 1) && all(iszero, s[2:end])
    goes_on(first(nest.strides)) || return 1
    all(s -> goes_on(s) || is_same(s), nest.strides) || return 1
    return something(findlast(r -> rows % r == 0, 1:min(rows, LONG_ROW ÷ max(n, 1))), 1)
end

"Writes a row of `n` elements into `to`, as often as it goes in there."
struct Repeat{T} <: Function
    from::Ptr{T}
    n::Int
    to::Vector{T}
end

function (repeat::Repeat)()
    (; from, n, to) = repeat
    GC.@preserve to begin
        start, filled = pointer(to), n
        unsafe_copyto!(start, from, n)
        while filled < length(to)
            more = min(filled, length(to) - filled)
            unsafe_copyto!(element(start, filled), start, more)
            filled += more
        end
    end
    return nothing
end

# A function of its own: inlined into the outer loops, a long `f` is no longer turned into
# vector instructions (seen with tanh: 40 µs instead of 2.4 for 6,656 elements).
@noinline function row!(f::F, to, from::A, n) where {F, A}
    # An operand may lie where the result goes, but then element on element.
    @simd ivdep for i in 0:(n - 1)
        put!(to, f(map(x -> get(x, i), from)...), i)
    end
    return nothing
end
