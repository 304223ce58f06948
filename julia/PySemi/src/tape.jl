# Reads a tape: text made by pysemi/compiler/tape.py, whose docstring defines it.

struct TapeError <: Exception
    message::String
end
Base.showerror(io::IO, e::TapeError) = print(io, "tape: ", e.message)

const ELEMENT_TYPES = Dict(
    "Float32" => Float32, "Float64" => Float64, "Int64" => Int64, "Int32" => Int32, "Bool" => Bool,
)

"""
    Tape{T}

A compiled vector field: its memory, the kernels of its programs in order, and the buffers
that they point into, by number.
"""
struct Tape{T}
    memory::Memory{T, Vector{T}}
    programs::Dict{String, Vector{Thunk}}
    buffers::Vector{Any}
    roles::Vector{String}
end

"A program of a tape, as one call."
struct TapeProgram <: Function
    kernels::Vector{Thunk}
end

function (program::TapeProgram)()
    for kernel in program.kernels
        kernel()
    end
    return nothing
end

"""
    read_tape(text)

Allocate a tape's buffers (zeroed) and make its kernels, compiling what is new among them.
"""
function read_tape(text::AbstractString)
    lines = split(text, '\n'; keepempty = false)
    buffers, roles = allocate(lines)
    programs = Dict{String, Vector{Thunk}}()
    current = Thunk[]
    for line in lines
        if startswith(line, "buffer ")
            continue
        elseif startswith(line, "program ")
            current = programs[line[9:end]] = Thunk[]
        else
            push!(current, instruction(line, buffers))
        end
    end
    return Tape(memory(buffers, roles), programs, buffers, roles)
end

function memory(buffers, roles)
    of(role) = buffers[findfirst(==(role), roles)::Int]
    y = of("y")
    T = eltype(y)
    return Memory{T, Vector{T}}(
        of("t"), y, of("cotangent"), of("params"), of("dy"), of("y_bar"), of("params_bar")
    )
end

function allocate(lines)
    buffers = Any[]
    roles = String[]
    work = Tuple{Int, DataType, Int, Int}[]
    for line in lines
        startswith(line, "buffer ") || continue
        words = split(line)
        number, role = parse(Int, words[2]), String(words[3])
        T, n = ELEMENT_TYPES[words[4]], parse(Int, words[5])
        number == length(buffers) + 1 || throw(TapeError("buffer $number is out of order"))
        push!(roles, role)
        push!(buffers, role == "work" ? nothing : zeros(T, n))
        role == "work" && push!(work, (number, T, n, parse(Int, words[7])))
    end
    # Work buffers are pieces of one array, which stays alive by being the last buffer.
    nbytes = maximum(place + n * sizeof(T) for (_, T, n, place) in work; init = 0)
    shared = zeros(UInt8, nbytes + 64)
    base = pointer(shared)
    base += mod(-UInt(base), 64)
    for (number, T, n, place) in work
        buffers[number] = unsafe_wrap(Array, Ptr{T}(base + place), n)
    end
    push!(buffers, shared)
    return buffers, roles
end

const VIEW = r"^%(\d+)\[([\d,]*)(?:\|([\d,]*)\|(\d+))?\]$"

numbers(text) = isempty(text) ? Int[] : [parse(Int, part) for part in eachsplit(text, ',')]

function read_window(text, buffers)
    m = match(VIEW, text)
    m === nothing && throw(TapeError("no view: $text"))
    buffer = parse(Int, m[1])
    shape = numbers(m[2])
    m[3] === nothing && return Window(buffer, shape, dense_strides(shape), 0)
    window = Window(buffer, shape, numbers(m[3]), parse(Int, m[4]))
    last = window.offset + sum((window.shape .- 1) .* window.strides; init = 0)
    last < length(buffers[buffer]) || throw(TapeError("a view past the end of its buffer: $text"))
    return window
end

function instruction(line, buffers)
    head, program = occursin(" :: ", line) ? split(line, " :: "; limit = 2) : (line, "")
    left, right = split(head, " = "; limit = 2)
    words = split(right)
    views = [read_window(word, buffers) for word in words if startswith(word, '%')]
    rest = [String(word) for word in words[2:end] if !startswith(word, '%')]
    out = read_window(left, buffers)
    maker = Base.get(MAKERS, String(words[1]), nothing)
    maker === nothing && throw(TapeError("no kernel \"$(words[1])\""))
    # In the newest world: what a pointwise program compiled to is younger than this call.
    return Base.invokelatest(maker, buffers, out, views, rest, String(program))
end

pointer_to(buffers, w::Window) = pointer(buffers[w.buffer], w.offset + 1)

function make_pointwise(buffers, out, views, _, program)
    f = Scalars.compile(program, length(views))
    return Base.invokelatest(pointwise_thunk, f, buffers, out, views)
end

function pointwise_thunk(f, buffers, out, views)
    args = Tuple(pointer_to(buffers, view) for view in views)
    return Thunk(PointwiseLoop(f, pointer_to(buffers, out), args, Nest(out, views...)))
end

function make_product(buffers, out, views, _, _)
    T = eltype(buffers[out.buffer])
    return Thunk(Product(T, w -> pointer_to(buffers, w), out, views...))
end

const REDUCTIONS = Dict("sum" => +, "max" => Scalars.maximum, "min" => Scalars.minimum)

function make_reduction(buffers, out, views, words, _)
    T = eltype(buffers[out.buffer])
    return Thunk(Reduction(REDUCTIONS[words[1]], T, w -> pointer_to(buffers, w), out, views[1]))
end

function make_moving_window(buffers, out, views, words, _)
    from, index = views
    step, count = parse.(Int, words)
    shaped = Window(out.buffer, from.shape, dense_strides(from.shape), out.offset)
    return Thunk(
        MovingWindow(
            pointer_to(buffers, out), pointer_to(buffers, from), pointer_to(buffers, index),
            step, count, Nest(shaped, from)
        )
    )
end

function make_take(buffers, out, views, _, _)
    from, indices = views
    return Thunk(
        Take(
            pointer_to(buffers, out), pointer_to(buffers, from), length(from),
            pointer_to(buffers, indices), length(indices)
        )
    )
end

function make_put(buffers, out, views, words, _)
    indices, values = views
    return Thunk(
        Put(
            pointer_to(buffers, out), length(out), pointer_to(buffers, indices),
            pointer_to(buffers, values), length(values), words[1] == "add"
        )
    )
end

function make_search(buffers, out, views, words, _)
    values, edges = views
    return Thunk(
        SearchSorted(
            pointer_to(buffers, out), pointer_to(buffers, values), length(values),
            pointer_to(buffers, edges), length(edges), words[1] == "right"
        )
    )
end

function make_linear_solve(buffers, out, views, words, _)
    T = eltype(buffers[out.buffer])
    transposed = words[1] == "transposed"
    return Thunk(LinearSolve(T, w -> pointer_to(buffers, w), out, views..., transposed))
end

const MAKERS = Dict{String, Function}(
    "pointwise" => make_pointwise,
    "matmul" => make_product,
    "reduce" => make_reduction,
    "window" => make_moving_window,
    "take" => make_take,
    "put" => make_put,
    "searchsorted" => make_search,
    "solve" => make_linear_solve,
)
