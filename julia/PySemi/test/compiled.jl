# Tapes that pysemi's compiler made, against PyTorch's results, on each kind of arrays.
#
# PYSEMI_TAPES names a folder that tests/test_julia_package.py fills: NAME.tape is the text;
# NAME.data holds the buffers of inputs and results, in order, as the results should be.

"Roles of what programs leave for one another; there is nothing to compare it with."
const BETWEEN = ("work", "record", "operand")

function compare_with_torch(folder, name, like)
    tape = PySemi.read_tape(read(joinpath(folder, "$name.tape"), String), like)
    expected = open(joinpath(folder, "$name.data")) do io
        buffers = [
            role in BETWEEN ? nothing : read!(io, Array(buffer))
                for (role, buffer) in zip(tape.roles, tape.buffers)
        ]
        @test eof(io)
        buffers
    end
    results = ("dy", "y_bar", "params_bar")
    for (role, buffer, values) in zip(tape.roles, tape.buffers, expected)
        role in BETWEEN || role in results || copyto!(buffer, values)
    end
    T = eltype(tape.memory.y)
    # OpInfo's samples are of any condition.
    rtol = T === Float32 ? 2.0f-5 : startswith(name, "opinfo-") ? 1.0e-10 : 1.0e-13
    runs = Any[PySemi.TapeProgram(tape.programs["joint"])]
    # Broadcasts compile for a second each; of those, jlarrays.jl has one of each kind.
    like isa Vector && push!(runs, () -> PySemi.evaluate_in_parts!(Field(tape)))
    for run in runs
        run()
        for (role, buffer, values) in zip(tape.roles, tape.buffers, expected)
            role in results || continue
            scale = max(maximum(abs, values; init = zero(T)), one(T))
            @test maximum(abs, Array(buffer) - values; init = zero(T)) <= rtol * scale
        end
    end
    return nothing
end

folder = get(ENV, "PYSEMI_TAPES", nothing)
if folder === nothing
    println("skipped: no tapes in PYSEMI_TAPES; tests/test_julia_package.py makes them")
else
    names = sort!([first(splitext(file)) for file in readdir(folder) if endswith(file, ".tape")])
    @testset "$name by loops" for name in names
        compare_with_torch(folder, name, UInt8[])
    end
    if available("JLArrays", "GPUArrays")
        @eval using JLArrays: JLArray
        @eval using GPUArrays: GPUArrays
        GPUArrays.allowscalar(false)
        @testset "$name by broadcasts" for name in names
            compare_with_torch(folder, name, JLArray(UInt8[]))
        end
    end
    println("compared with PyTorch: ", length(names), " tapes")
end
