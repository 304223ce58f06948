# Times of a tape's kernels; see kernels.py.

using PySemi: PySemi

"Microseconds of one call: the shortest mean of `batches` batches of `n`."
function microseconds(call, n = 300, batches = 7)
    call()
    times = map(1:batches) do _
        began = time_ns()
        foreach(_ -> call(), 1:n)
        return (time_ns() - began) / n
    end
    return minimum(times) / 1.0e3
end

"Lines of the programs of a tape's text, by their names."
function program_lines(text)
    lines = Dict{String, Vector{String}}()
    current = ""
    for line in eachsplit(text, '\n'; keepempty = false)
        if startswith(line, "program ")
            current = line[9:end]
            lines[current] = String[]
        elseif !startswith(line, "buffer ")
            push!(lines[current], line)
        end
    end
    return lines
end

"""
    kernel_times(file, names)

For each of the named programs of the tape in `file`: its time, the share of its matrix
products, and the lines that take a twentieth of it or more. And for one evaluation, if as many as
fit are gathered at once.
"""
function kernel_times(file, names)
    text = read(file, String)
    tape = PySemi.read_tape(text)
    (; y, cotangent, params) = tape.memory
    foreach(x -> x .= range(-1, 1; length = length(x)), (y, cotangent))
    params .= range(-0.3, 0.3; length = length(params))
    lines = program_lines(text)
    out = IOBuffer()
    for name in names
        kernels = tape.programs[name]
        whole = microseconds(PySemi.thunk(PySemi.TapeProgram(kernels)))
        each = map(microseconds, kernels)
        products = sum(t for (t, line) in zip(each, lines[name]) if occursin(" = matmul ", line); init = 0.0)
        share = round(Int, 100 * products / max(sum(each; init = 0.0), eps()))
        println(out, name, ": ", round(whole; digits = 2), " µs, ", share, " % of it products")
        for (t, line) in zip(each, lines[name])
            t >= 0.05 * whole && println(out, lpad(round(t; digits = 2), 10), "  ", first(line, 120))
        end
    end
    (; gather) = tape
    if gather.most > 0
        collected = microseconds(() -> foreach(_ -> PySemi.collect!(gather), 1:(gather.most)), 20)
        println(out, "gathered: ", round(collected / gather.most; digits = 2), " µs, of ", gather.most, " at once")
    end
    return String(take!(out))
end
