# Reads a tape: text made by pysemi/compiler/tape.py, whose docstring defines it.

struct TapeError <: Exception
    message::String
end
Base.showerror(io::IO, e::TapeError) = print(io, "tape: ", e.message)

const ELEMENT_TYPES = Dict(
    "Float32" => Float32, "Float64" => Float64, "Int64" => Int64, "Int32" => Int32, "Int16" => Int16,
    "Int8" => Int8, "UInt8" => UInt8, "Bool" => Bool,
)

"""
    Tape{T, V}

A compiled vector field: its memory, the kernels of its programs in order, and the buffers
that they work in, by number; and the package that would keep its loops, if they are not kept.

The programs "record", "reverse" and "gather" are f and its products in parts: `record` is what
the first leaves for the second, and `gather` the third, for any number of evaluations.
"""
struct Tape{T, V}
    memory::Memory{T, V}
    programs::Dict{String, Vector{Thunk}}
    record::V
    gather::Gather
    buffers::Vector{Any}
    roles::Vector{String}
    package::Union{Nothing, KernelPackage}
end

"""
    read_tape(text, like = UInt8[])

Allocate a tape's buffers (zeroed) and make its kernels, compiling what is new among them.

Buffers are arrays of the kind of `like`. The kernels of a `Vector` are loops over memory;
those of other arrays, a GPU's, are broadcasts and what else such arrays have of their own.
Loops that were compiled by an earlier process are loaded ([`keep_kernels`](@ref)).
"""
function read_tape(text::AbstractString, like::AbstractVector = UInt8[])
    lines = split(text, '\n')
    buffers, roles = allocate(lines, like)
    kinds = like isa Vector ? LOOPS : BROADCASTS
    package = kinds === LOOPS ? kernel_package(lines, buffers) : nothing
    kept = package !== nothing && load_kernels(package, KERNEL_FOLDER[].path)
    programs = Dict{String, Vector{Thunk}}()
    sums = Sum[]
    current = nothing
    for (number, line) in enumerate(lines)
        if isempty(line) || startswith(line, "buffer ")
            continue
        elseif startswith(line, "program ")
            current = programs[line[9:end]] = Thunk[]
        else
            at_line(number, line) do
                current === nothing && throw(TapeError("an instruction outside of a program"))
                push!(current, instruction(parts(line, buffers)..., buffers, kinds))
                current === Base.get(programs, "gather", nothing) && push!(sums, as_sum(line, buffers))
            end
        end
    end
    tape_memory = memory(buffers, roles)
    gather = Gather(sums, buffers, kinds)
    return Tape(tape_memory, programs, buffers[end - 1], gather, buffers, roles, kept ? nothing : package)
end

"The package that a tape's loops would be kept in; nothing where none are, or there are no loops."
function kernel_package(lines, buffers)
    KERNEL_FOLDER[] === nothing && return nothing
    codes = LoopCode[]
    for (number, line) in enumerate(lines)
        occursin(" = pointwise ", line) || continue
        at_line(number, line) do
            out, views, _, program = parts(line, buffers)
            same_shapes(out, views...)
            push!(codes, LoopCode(buffers, out, views, program))
        end
    end
    return isempty(codes) ? nothing : KernelPackage(codes)
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
    V = typeof(of("y"))
    arrays = map(of, ("t", "y", "cotangent", "params", "dy", "y_bar", "params_bar"))
    # A conversion would be a copy, on which no kernel works.
    all(x -> x isa V, arrays) || throw(TapeError("inputs and results of several types"))
    return Memory{eltype(V), V}(arrays...)
end

"Roles whose buffers are pieces of one array."
const SHARED = ("record", "work")

"""
Arrays for a tape's buffers, by number, and two more: the memory of its record and that of its work
space, of which those buffers are pieces. And the roles of the buffers.
"""
function allocate(lines, like)
    zeroed(T, n) = fill!(similar(like, T, n), zero(T))
    buffers = Any[]
    roles = String[]
    pieces = Dict(role => Tuple{Int, DataType, Int, Int}[] for role in SHARED)
    for (line_number, line) in enumerate(lines)
        startswith(line, "buffer ") || continue
        at_line(line_number, line) do
            words = split(line)
            number, role = parse(Int, words[2]), String(words[3])
            T, n = element_type(words[4]), parse(Int, words[5])
            number == length(buffers) + 1 || throw(TapeError("buffer $number is out of order"))
            push!(roles, role)
            push!(buffers, role in SHARED ? nothing : zeroed(T, n))
            role in SHARED && push!(pieces[role], (number, T, n, Int(parse(UInt, words[7]))))
        end
    end
    # A record is handled as an array of the state's type.
    y = findfirst(==("y"), roles)
    record_type = y === nothing ? UInt8 : eltype(buffers[y])
    for (role, T) in zip(SHARED, (record_type, UInt8))
        nbytes = maximum(place + n * sizeof(S) for (_, S, n, place) in pieces[role]; init = 0)
        shared = zeroed(T, cld(nbytes + ALIGNMENT, sizeof(T)))
        for (number, S, n, place) in pieces[role]
            buffers[number] = piece(shared, S, n, place)
        end
        push!(buffers, shared)
    end
    return buffers, roles
end

"Bytes: the places of work buffers are multiples of it."
const ALIGNMENT = 64

"`n` elements of memory, `place` bytes from its first aligned byte."
function piece(shared::Vector, ::Type{T}, n, place) where {T}
    start = UInt(pointer(shared))
    start += mod(-start, ALIGNMENT)
    return unsafe_wrap(Array, Ptr{T}(start + place), n)
end
# Allocations of other kinds are aligned.
function piece(shared, ::Type{T}, n, place) where {T}
    unit = sizeof(eltype(shared))
    first, count = place ÷ unit + 1, cld(n * sizeof(T), unit)
    return view(reinterpret(T, view(shared, first:(first + count - 1))), 1:n)
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
    # The last two are the memory of others.
    1 <= buffer <= length(buffers) - 2 || throw(TapeError("no buffer $buffer"))
    shape = numbers(m[2])
    window = m[3] === nothing ? Window(buffer, shape, dense_strides(shape), 0) :
        Window(buffer, shape, numbers(m[3]), parse(Int, m[4]))
    reach(window) < length(buffers[buffer]) ||
        throw(TapeError("a view past the end of its buffer: $text"))
    return window
end

"Place of a window's last element in its buffer, from 0."
reach(w::Window) = isempty(w) ? -1 : w.offset + sum((w.shape .- 1) .* w.strides; init = 0)

"A line's result, operands, words (the kernel's name first) and program."
function parts(line, buffers)
    head, program = occursin(" :: ", line) ? split(line, " :: "; limit = 2) : (line, "")
    occursin(" = ", head) || throw(TapeError("no instruction"))
    left, right = split(head, " = "; limit = 2)
    words = split(right)
    views = [read_window(word, buffers) for word in words if startswith(word, '%')]
    rest = [String(word) for word in words if !startswith(word, '%')]
    return read_window(left, buffers), views, rest, String(program)
end

function instruction(out, views, (name, rest...), program, buffers, kinds)
    maker = Base.get(MAKERS, name, nothing)
    maker === nothing && throw(TapeError("no kernel \"$name\""))
    # In the newest world: what a pointwise program compiled to is younger than this call.
    return thunk(Base.invokelatest(maker, kinds, buffers, out, views, rest, program))
end

same_shapes(windows...) =
    allequal(w.shape for w in windows) || throw(TapeError("operands of several shapes"))

function of_type(::Type{T}, buffers, windows...) where {T}
    for w in windows
        eltype(buffers[w.buffer]) === T || throw(TapeError("buffer $(w.buffer) is not of $T"))
    end
    return nothing
end

same_types(buffers, first, others...) = of_type(eltype(buffers[first.buffer]), buffers, others...)

"Kernels that count through memory want windows without gaps."
as_runs(windows...) = all(is_run, windows) || throw(TapeError("an operand has gaps"))

same_lengths(one, other, what) =
    length(one) == length(other) || throw(TapeError("not as many $what"))

function make_pointwise(kinds, buffers, out, views, _, program)
    same_shapes(out, views...)
    f = Scalars.compile(program, length(views))
    return Base.invokelatest(kinds.pointwise, f, buffers, out, views)
end

function make_product(kinds, buffers, out, views, words, _)
    same_types(buffers, out, views...)
    return kinds.product(buffers, out, views..., "add" in words)
end

const REDUCTIONS =
    Dict("sum" => +, "prod" => *, "max" => Scalars.maximum, "min" => Scalars.minimum)

function make_reduction(kinds, buffers, out, views, words, _)
    same_shapes(out, views[1])
    same_types(buffers, out, views[1])
    return kinds.reduction(REDUCTIONS[words[1]], buffers, out, views[1], "add" in words)
end

function make_moving_window(kinds, buffers, out, views, words, _)
    from, index = views
    same_types(buffers, out, from)
    of_type(Int, buffers, index)
    step, count = parse.(Int, words)
    reach(from) + step * (count - 1) < length(buffers[from.buffer]) ||
        throw(TapeError("the last of the windows is past the end of the buffer"))
    as_runs(out)
    same_lengths(out, from, "results as elements")
    shaped = Window(out.buffer, from.shape, dense_strides(from.shape), out.offset)
    return kinds.moving_window(buffers, shaped, from, index, step, count)
end

function make_take(kinds, buffers, out, views, _, _)
    from, indices = views
    same_types(buffers, out, from)
    of_type(Int, buffers, indices)
    as_runs(out, from, indices)
    same_lengths(out, indices, "results as indices")
    return kinds.take(buffers, out, from, indices)
end

# What becomes of the old element and the new one.
latest(_, new) = new
const JOININGS = Dict(
    "set" => latest, "add" => +, "prod" => *, "max" => Scalars.maximum, "min" => Scalars.minimum,
)

function make_put(kinds, buffers, out, views, words, _)
    indices, values = views
    same_types(buffers, out, values)
    of_type(Int, buffers, indices)
    as_runs(out, indices, values)
    same_lengths(values, indices, "values as indices")
    return kinds.put(JOININGS[words[1]], buffers, out, indices, values)
end

function make_search(kinds, buffers, out, views, words, _)
    values, edges = views
    same_types(buffers, values, edges)
    of_type(Int, buffers, out)
    as_runs(out, values, edges)
    same_lengths(out, values, "results as values")
    return kinds.search(buffers, out, values, edges, words[1] == "right")
end

function make_linear_solve(kinds, buffers, out, views, words, _)
    same_types(buffers, out, views...)
    as_runs(out)
    return kinds.linear_solve(buffers, out, views..., words[1] == "transposed")
end

const FACTORISATIONS = Dict("lu" => factor_lu!, "cholesky" => factor_cholesky!)

function make_factorisation(kinds, buffers, out, views, words, _)
    same_types(buffers, out, views...)
    as_runs(out)
    return kinds.factorisation(FACTORISATIONS[words[1]], buffers, out, views...)
end

function make_exponential(kinds, buffers, out, views, _, _)
    same_types(buffers, out, views...)
    as_runs(out)
    return kinds.exponential(buffers, out, views...)
end

"A line of the program \"gather\"."
function as_sum(line, buffers)
    out, views, words, _ = parts(line, buffers)
    "add" in words || throw(TapeError("a result of \"gather\" that is not added"))
    first(words) == "matmul" && return Sum(out, views, words, [length(views[1].shape), length(views[2].shape) - 1])
    words[1:2] == ["reduce", "sum"] && return Sum(out, views, words, [1])
    throw(TapeError("no sum over rows"))
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
    "factor" => make_factorisation,
    "exponential" => make_exponential,
)

"Kernels of memory that has an address."
const LOOPS = (;
    pointwise = pointwise_loop, product = Product, reduction = Reduction,
    moving_window = MovingWindow, take = Take, put = Put, search = SearchSorted,
    linear_solve = LinearSolve, factorisation = Factorisation, exponential = MatrixExponential,
)

"Kernels of arrays that only whole-array operations may touch."
const BROADCASTS = (;
    pointwise = PointwiseBroadcast, product = ProductCall, reduction = ReductionCall,
    moving_window = MovingWindowBroadcast, take = TakeBroadcast, put = PutBroadcast,
    search = SearchSortedBroadcast, linear_solve = LinearSolveBroadcast,
    factorisation = FactorisationBroadcast, exponential = MatrixExponentialBroadcast,
)
