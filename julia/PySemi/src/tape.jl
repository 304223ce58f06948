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
    lines = split(text, '\n')
    buffers, roles = allocate(lines)
    programs = Dict{String, Vector{Thunk}}()
    current = nothing
    for (number, line) in enumerate(lines)
        if isempty(line) || startswith(line, "buffer ")
            continue
        elseif startswith(line, "program ")
            current = programs[line[9:end]] = Thunk[]
        else
            at_line(number, line) do
                current === nothing && throw(TapeError("an instruction outside of a program"))
                push!(current, instruction(line, buffers))
            end
        end
    end
    return Tape(memory(buffers, roles), programs, buffers, roles)
end

"Do what a line asks for; what goes wrong says which line it was."
function at_line(act, number, line)
    try
        return act()
    catch error
        error isa InterruptException && rethrow()
        reason = error isa TapeError ? error.message : sprint(showerror, error)
        throw(TapeError("$reason, in line $number: $line"))
    end
end

function memory(buffers, roles)
    function of(role)
        place = findfirst(==(role), roles)
        place === nothing && throw(TapeError("no buffer has the role $role"))
        return buffers[place]
    end
    T = eltype(of("y"))
    arrays = map(of, ("t", "y", "cotangent", "params", "dy", "y_bar", "params_bar"))
    # A conversion would be a copy, on which no kernel works.
    all(x -> x isa Vector{T}, arrays) || throw(TapeError("inputs and results of several types"))
    return Memory{T, Vector{T}}(arrays...)
end

function allocate(lines)
    buffers = Any[]
    roles = String[]
    work = Tuple{Int, DataType, Int, Int}[]
    for (line_number, line) in enumerate(lines)
        startswith(line, "buffer ") || continue
        at_line(line_number, line) do
            words = split(line)
            number, role, T, n = parse(Int, words[2]), String(words[3]), element_type(words[4]), parse(Int, words[5])
            number == length(buffers) + 1 || throw(TapeError("buffer $number is out of order"))
            push!(roles, role)
            push!(buffers, role == "work" ? nothing : zeros(T, n))
            role == "work" && push!(work, (number, T, n, Int(parse(UInt, words[7]))))
        end
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

function element_type(name)
    haskey(ELEMENT_TYPES, name) || throw(TapeError("no element type $name"))
    return ELEMENT_TYPES[name]
end

const VIEW = r"^%(\d+)\[([\d,]*)(?:\|([\d,]*)\|(\d+))?\]$"

numbers(text) = isempty(text) ? Int[] : [parse(Int, part) for part in eachsplit(text, ',')]

function read_window(text, buffers)
    m = match(VIEW, text)
    m === nothing && throw(TapeError("no view: $text"))
    buffer = parse(Int, m[1])
    # The last buffer is the memory of the others.
    1 <= buffer < length(buffers) || throw(TapeError("no buffer $buffer"))
    shape = numbers(m[2])
    window = m[3] === nothing ? Window(buffer, shape, dense_strides(shape), 0) :
        Window(buffer, shape, numbers(m[3]), parse(Int, m[4]))
    reach(window) < length(buffers[buffer]) ||
        throw(TapeError("a view past the end of its buffer: $text"))
    return window
end

"Place of a window's last element in its buffer, from 0."
reach(w::Window) = isempty(w) ? -1 : w.offset + sum((w.shape .- 1) .* w.strides; init = 0)

function instruction(line, buffers)
    head, program = occursin(" :: ", line) ? split(line, " :: "; limit = 2) : (line, "")
    occursin(" = ", head) || throw(TapeError("no instruction"))
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

"Pointers to windows of one element type."
function typed_pointers(::Type{T}, buffers) where {T}
    return function (w)
        p = pointer_to(buffers, w)
        p isa Ptr{T} || throw(TapeError("buffer $(w.buffer) is not of $T"))
        return p
    end
end

same_shapes(windows...) =
    allequal(w.shape for w in windows) || throw(TapeError("operands of several shapes"))

"Kernels that count through memory want windows without gaps."
as_runs(windows...) = all(is_run, windows) || throw(TapeError("an operand has gaps"))

function make_pointwise(buffers, out, views, _, program)
    same_shapes(out, views...)
    f = Scalars.compile(program, length(views))
    return Base.invokelatest(pointwise_thunk, f, buffers, out, views)
end

function pointwise_thunk(f, buffers, out, views)
    args = Tuple(pointer_to(buffers, view) for view in views)
    return thunk(PointwiseLoop(f, pointer_to(buffers, out), args, Nest(out, views...)))
end

function make_product(buffers, out, views, _, _)
    T = eltype(buffers[out.buffer])
    return thunk(Product(T, typed_pointers(T, buffers), out, views...))
end

const REDUCTIONS = Dict("sum" => +, "max" => Scalars.maximum, "min" => Scalars.minimum)

function make_reduction(buffers, out, views, words, _)
    same_shapes(out, views[1])
    T = eltype(buffers[out.buffer])
    return thunk(Reduction(REDUCTIONS[words[1]], T, typed_pointers(T, buffers), out, views[1]))
end

function make_moving_window(buffers, out, views, words, _)
    from, index = views
    step, count = parse.(Int, words)
    reach(from) + step * (count - 1) < length(buffers[from.buffer]) ||
        throw(TapeError("the last of the windows is past the end of the buffer"))
    length(out) == length(from) && as_runs(out)
    shaped = Window(out.buffer, from.shape, dense_strides(from.shape), out.offset)
    return thunk(
        MovingWindow(
            pointer_to(buffers, out), pointer_to(buffers, from), pointer_to(buffers, index),
            step, count, Nest(shaped, from)
        )
    )
end

function make_take(buffers, out, views, _, _)
    from, indices = views
    as_runs(out, from, indices)
    length(out) == length(indices) || throw(TapeError("not as many results as indices"))
    return thunk(
        Take(
            pointer_to(buffers, out), pointer_to(buffers, from), length(from),
            pointer_to(buffers, indices), length(indices)
        )
    )
end

function make_put(buffers, out, views, words, _)
    indices, values = views
    as_runs(out, indices, values)
    length(values) == length(indices) || throw(TapeError("not as many values as indices"))
    return thunk(
        Put(
            pointer_to(buffers, out), length(out), pointer_to(buffers, indices),
            pointer_to(buffers, values), length(values), words[1] == "add"
        )
    )
end

function make_search(buffers, out, views, words, _)
    values, edges = views
    as_runs(out, values, edges)
    length(out) == length(values) || throw(TapeError("not as many results as values"))
    return thunk(
        SearchSorted(
            pointer_to(buffers, out), pointer_to(buffers, values), length(values),
            pointer_to(buffers, edges), length(edges), words[1] == "right"
        )
    )
end

function make_linear_solve(buffers, out, views, words, _)
    T = eltype(buffers[out.buffer])
    transposed = words[1] == "transposed"
    as_runs(out)
    return thunk(LinearSolve(T, typed_pointers(T, buffers), out, views..., transposed))
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
