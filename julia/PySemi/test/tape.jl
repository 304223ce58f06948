using PySemi: TapeError, read_tape

# The message of the error that reading gives; an error of another kind is not caught.
function complaint(text)
    try
        read_tape(text)
    catch error
        error isa TapeError || rethrow()
        return error.message
    end
    return "none"
end

"A good tape of eleven lines, and the instruction `line` as its twelfth."
good(line) = """
$(header())
buffer 8 work Float64 6 @ 0
buffer 9 work Float64 6 @ 64
buffer 10 tensor Int64 2
program field
$line
"""

@testset "a good tape is read" begin
    @test complaint(good("%8[2,3] = pointwise %9[2,3] :: -x1")) == "none"
    @test complaint(good("%8[2|3|1] = pointwise %9[2|1|4] :: -x1")) == "none"
end

@testset "$what is refused with its line" for (what, line) in (
        "no kernel \"frobnicate\"" => "%8[6] = frobnicate %9[6]",
        "a view past the end of its buffer: %9[2|1|5]" => "%8[2|1|0] = pointwise %9[2|1|5] :: x1",
        "a view past the end of its buffer: %8[7]" => "%8[7] = pointwise :: Float64(0)",
        "a view past the end of its buffer: %9[2,2|1,5|0]" => "%8[2,2|2,1|0] = pointwise %9[2,2|1,5|0] :: x1",
        "no view: %9[2|1]" => "%8[2|1|0] = pointwise %9[2|1] :: x1",
        "no view: %9[-1]" => "%8[6] = pointwise %9[-1] :: x1",
        "no view: 9[6]" => "9[6] = pointwise %8[6] :: x1",
        "no buffer 11" => "%8[6] = pointwise %11[6] :: x1",
        "no buffer 0" => "%0[6] = pointwise %8[6] :: x1",
        "no instruction" => "%8[6] pointwise",
        "operands of several shapes" => "%8[2,3] = pointwise %9[3,2] :: x1",
        "know no function sinus" => "%8[6] = pointwise %9[6] :: sinus(x1)",
        "ParseError" => "%8[6] = pointwise %9[6] :: x1 +",
        "an operand has gaps" => "%8[2|2|0] = take %9[6] %10[2]",
        "no BLAS layout" => "%8[2,3] = matmul %9[2,2|2,1|0] %8[3,3|0,1|0]",
        "past the end" => "%8[2|1|0] = window %9[2|1|0] %10[1|1|0] 2 4",
        "buffer 9 is not of Int64" => "%8[2|1|0] = take %8[6] %9[2|1|0]",
        "buffer 9 is not of Int64" => "%8[2|1|0] = window %8[2|1|0] %9[1|1|0] 2 2",
        "buffer 9 is not of Int64" => "%8[6] = put %9[2|1|0] %8[2|1|0] set",
        "buffer 8 is not of Int64" => "%8[6] = searchsorted %9[6] %9[6] left",
        "buffer 10 is not of Float64" => "%8[2|1|0] = take %10[2] %10[2]",
        "not as many results as indices" => "%8[3|1|0] = take %9[6] %10[2]",
        "not as many results as elements" => "%8[3|1|0] = window %9[2|1|0] %10[1|1|0] 2 2",
        "not as many values as indices" => "%8[6] = put %10[2] %9[3|1|0] set",
        "not as many results as values" => "%10[2] = searchsorted %9[3|1|0] %9[6] left",
    )
    message = complaint(good(line))
    @test occursin(what, message)
    @test endswith(message, "in line 12: $line")
end

@testset "bad buffers are refused with their line" begin
    @test occursin("buffer 3 is out of order, in line 2", complaint("buffer 1 t Float64 1\nbuffer 3 y Float64 1"))
    @test occursin("no element type Float16, in line 1", complaint("buffer 1 t Float16 1"))
    @test occursin("in line 1", complaint("buffer 1 t Float64 many"))
    @test occursin("in line 1", complaint("buffer 1 t Float64"))
    @test occursin("in line 1", complaint("buffer 1 work Float64 1 @ -8"))
    @test occursin("no buffer has the role y", complaint("buffer 1 t Float64 1"))
end

@testset "an instruction belongs to a program" begin
    @test occursin("outside of a program, in line 8", complaint("$(header())\n%1[1] = pointwise :: Float64(0)"))
end

@testset "inputs and results have one element type" begin
    mixed = replace(header(), "buffer 1 t Float64" => "buffer 1 t Float32")
    @test occursin("several types", complaint(mixed))
    @test occursin("buffer 8 is not of Float64", complaint(replace(
        good("%9[1,1|1,1|0] = matmul %8[1,1|1,1|0] %9[1,1|1,1|0]"), "buffer 8 work Float64" => "buffer 8 work Float32"
    )))
end

@testset "work buffers lie where the tape says, aligned" begin
    tape = read_tape(good("%8[6] = pointwise :: Float64(1)"))
    at(i) = UInt(pointer(tape.buffers[i]))
    @test at(9) - at(8) == 64 && at(8) % 64 == 0
end

pullback_of(field, record) = () -> (PySemi.reverse!(field, record, 0.0); PySemi.gather!(field.gather))

@testset "a program runs its kernels in order, and allocates nothing" begin
    for T in (Float32, Float64)
        tape = read_tape(PySemi.perceptron_tape(T, 4))
        memory = tape.memory
        foreach(x -> x .= randn(T, length(x)), (memory.y, memory.cotangent, memory.params))
        θ, y = memory.params, reshape(memory.y, 2, 4)
        W, c, V = reshape(θ[1:6], 2, 3)', θ[7:9], reshape(θ[10:15], 3, 2)'
        for name in ("field", "joint")
            program = Thunk(PySemi.TapeProgram(tape.programs[name]))
            @test allocated(program) == 0
            @test reshape(memory.dy, 2, 4) ≈ V * tanh.(W * y .+ c)
        end
        λ = reshape(memory.cotangent, 2, 4)
        h = tanh.(W * y .+ c)
        δ = (V' * λ) .* (1 .- h .^ 2)
        @test reshape(memory.y_bar, 2, 4) ≈ W' * δ
        bars = vcat(vec((δ * y')'), vec(sum(δ; dims = 2)), vec((λ * h')'))
        @test memory.params_bar ≈ bars
        field = Field(tape)
        fill!(memory.params_bar, 0.5)
        # As many as fit, and three more.
        n = tape.gather.most + 3
        @test tape.gather.most == 64
        @test allocated(field.record) == 0
        record = copy(tape.record)
        fill!(memory.y, NaN)
        for i in 1:n
            fill!(memory.y_bar, NaN)
            PySemi.reverse!(field, record, 0.0)
            @test reshape(memory.y_bar, 2, 4) ≈ W' * δ
            @test tape.gather.count == mod(i, 64)
        end
        PySemi.gather!(tape.gather)
        @test memory.params_bar ≈ 0.5 .+ n .* bars rtol = 100eps(T)
        @test allocated(pullback_of(field, record)) == 0
        PySemi.reverse!(field, record, 0.0)
        PySemi.forget!(tape.gather)
        total = copy(memory.params_bar)
        PySemi.gather!(tape.gather)
        @test memory.params_bar == total
    end
end

@testset "a program \"gather\" is made of sums over rows" begin
    gathered(line) = complaint(replace(good(line), "program field" => "program gather"))
    @test occursin("not added", gathered("%9[1,1|1,1|0] = matmul %8[1,1|1,1|0] %9[1,1|1,1|0]"))
    @test occursin("no sum over rows", gathered("%9[1|1|0] = reduce %8[1|1|0] max add"))
    @test gathered("%9[1,1|1,1|0] = matmul %8[6,1|1,1|0] %9[1,1|1,1|0] add") == "none"
    tape = read_tape(replace(good("%9[2,2|2,1|0] = matmul %8[2,2|1,2|0] %8[2,2|2,1|0] add"), "field" => "gather"))
    PySemi.collect!(tape.gather)
    @test_throws "do not follow" PySemi.gather!(tape.gather) # 4 of 6 elements
end
