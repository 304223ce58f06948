# Sums over evaluations: gradients of parameters whose terms are products over the rows of a batch
# are sums over rows of several evaluations too, which one product of more rows makes.

"""
A sum over rows, as an instruction's parts: its result, its operands, and of each of these the
dimension that counts rows.
"""
struct Sum
    out::Window
    views::Vector{Window}
    words::Vector{String}
    rows::Vector{Int}
end

"Rows of an operand in one evaluation."
rows_of(sum::Sum) = first(sum.views).shape[first(sum.rows)]

"The sum over the rows of `count` evaluations, of arrays that lie in line."
function over(sum::Sum, count, buffers)
    views = map(sum.views, sum.rows) do view, dim
        size, rows = length(buffers[view.buffer]), view.shape[dim]
        shape, strides = copy(view.shape), copy(view.strides)
        rows == 1 && (strides[dim] = size)
        rows * strides[dim] == size ||
            throw(ArgumentError("the rows of the next evaluation do not follow those of one"))
        shape[dim] *= count
        Window(view.buffer, shape, strides, view.offset)
    end
    (; out) = sum
    # A reduction's result has the shape of its operand.
    first(sum.words) == "reduce" && (out = Window(out.buffer, first(views).shape, out.strides, out.offset))
    return out, views
end

"A call with a number."
const NumberedThunk = FunctionWrapper{Nothing, Tuple{Int}}

"Lays copies of an array in line. Mutable, as a wrapper copies what is not."
mutable struct Line{S, A} <: Function
    const line::S
    const from::A
end
function (l::Line)(i)
    n = length(l.from)
    copyto!(view(l.line, ((i - 1) * n + 1):(i * n)), l.from)
    return nothing
end
function (l::Line{Vector{T}, Vector{T}})(i) where {T}
    n = length(l.from)
    unsafe_copyto!(l.line, (i - 1) * n + 1, l.from, 1, n)
    return nothing
end

"""
    Gather(sums, buffers, kinds)

Collects the operands of the program "gather" of several evaluations ([`collect!`](@ref)), and runs
it once for all of them ([`gather!`](@ref)).
"""
mutable struct Gather
    "How many evaluations fit."
    const most::Int
    "How many are there."
    count::Int
    const lines::Vector{NumberedThunk}
    "The program for so many evaluations, where it has been made."
    const programs::Vector{Union{Nothing, TapeProgram}}
    const make::Any
end

"Of a field whose programs leave nothing to be gathered."
Gather() = Gather(0, 0, NumberedThunk[], [], nothing)

"Rows of one sum: with more, a product is no faster."
const ENOUGH_ROWS = 1024

function Gather(sums, buffers, kinds)
    isempty(sums) && return Gather()
    most = clamp(ENOUGH_ROWS ÷ max(maximum(rows_of, sums), 1), 4, 64)
    in_line = copy(buffers)
    lines = map(unique(view.buffer for sum in sums for view in sum.views)) do number
        from = buffers[number]
        in_line[number] = fill!(similar(from, length(from) * most), 0)
        NumberedThunk(Line(in_line[number], from))
    end
    make(count) = TapeProgram(
        map(sums) do sum
            out, views = over(sum, count, buffers)
            instruction(out, views, sum.words, "", in_line, kinds)
        end
    )
    return Gather(most, 0, lines, fill(nothing, most), make)
end

"Forget what was collected."
forget!(gather::Gather) = (gather.count = 0; nothing)

"Take in the operands of one more evaluation."
function collect!(gather::Gather)
    gather.most == 0 && return nothing
    gather.count += 1
    for line in gather.lines
        line(gather.count)
    end
    gather.count == gather.most && gather!(gather)
    return nothing
end

"Add what was collected to dL/dθ."
function gather!(gather::Gather)
    (; count, programs) = gather
    count == 0 && return nothing
    gather.count = 0
    program = programs[count]
    program === nothing && (program = programs[count] = gather.make(count)::TapeProgram)
    program()
    return nothing
end
