# Tapes of single kernels, and what their views mean in plain Julia.

"The seven buffers that every tape has, of one element each; further ones start at 8."
header(T = Float64) = join(
    ("buffer $i $role $T 1" for (i, role) in enumerate(("t", "y", "cotangent", "params", "dy", "y_bar", "params_bar"))),
    "\n",
)

"An array of the kind that tapes of single kernels work on."
const KIND = Ref{AbstractVector}(UInt8[])

"A tape whose buffers 8, 9, ... hold `arrays`, with one program of `lines`."
function tape_with(arrays, lines...)
    buffers = ("buffer $(7 + i) tensor $(eltype(a)) $(length(a))" for (i, a) in enumerate(arrays))
    tape = PySemi.read_tape(join((header(), buffers..., "program field", lines...), "\n"), KIND[])
    for (i, a) in enumerate(arrays)
        copyto!(tape.buffers[7 + i], Array(a))
    end
    return tape
end

run!(tape) = PySemi.TapeProgram(tape.programs["field"])()

"What `line` leaves in buffer 8, where buffers 8, 9, ... hold `arrays`."
function result_of(line, arrays...)
    tape = tape_with(arrays, line)
    run!(tape)
    return Array(tape.buffers[8])
end

"Bytes that a second call allocates."
function allocated(f::F) where {F}
    f()
    return @allocated f()
end

"A view as text."
view_text(w::Window) = "%$(w.buffer)[$(join(w.shape, ','))|$(join(w.strides, ','))|$(w.offset)]"

"The elements of a view as an array with torch's dimensions."
function elements(buffer, w::Window)
    return eltype(buffer)[buffer[1 + place(w, I)] for I in CartesianIndices(Tuple(w.shape))]
end
place(w::Window, I) = w.offset + sum((Tuple(I) .- 1) .* Tuple(w.strides); init = 0)

"Write `values` where the view says."
function scatter!(buffer, w::Window, values)
    for I in CartesianIndices(Tuple(w.shape))
        buffer[1 + place(w, I)] = values[I]
    end
    return buffer
end

"""
A window of `shape` over memory of its own: permuted, with gaps, at an offset; where
`repeats`, some dimensions have stride 0. And how many elements the memory must have.
"""
function random_window(buffer, shape; repeats = false)
    strides = zeros(Int, length(shape))
    step = rand((1, 1, 2))
    for d in shuffle(eachindex(shape))
        shape[d] == 1 && continue
        repeats && rand() < 0.3 && continue
        strides[d] = step
        step *= shape[d] + rand((0, 0, 1))
    end
    offset = rand(0:3)
    window = Window(buffer, shape, strides, offset)
    return window, offset + step + 1
end

random_shape() = rand(1:4, rand(0:5))

"A tape of one field, `program` on `shape` numbers and on one of them."
function kept_tape(program, shape = "2,3", n = 6)
    buffers = [
        "buffer $i $role Float64 $(role in ("y", "dy") ? n : 1)"
            for (i, role) in enumerate(("t", "y", "cotangent", "params", "dy", "y_bar", "params_bar"))
    ]
    zeros = join(map(_ -> "0", split(shape, ",")), ",")
    return """
    $(join(buffers, '\n'))
    program field
    %5[$shape] = pointwise %2[$shape] %4[$shape|$zeros|0] :: $program
    """
end

"With kernels kept in a new folder; `act` is called with it."
function with_folder(act; after = 0)
    mktempdir() do folder
        command = PySemi.keep_kernels(folder, after)
        try
            act(PySemi.KERNEL_FOLDER[].path, Cmd(string.(split(command, '\0'))))
        finally
            PySemi.KERNEL_FOLDER[] = nothing
        end
    end
end
