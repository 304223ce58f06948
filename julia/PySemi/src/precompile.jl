# Compiles, once per installation, what every model uses: solvers, adjoints, kernels. A new
# process then compiles nothing but a model's own fused pointwise kernels.

using PrecompileTools: @setup_workload, @compile_workload

"A tape of a perceptron 2-3-2 with tanh on a batch of `b`: `y ↦ tanh(y W' + c) V'`."
function perceptron_tape(T, b)
    one = "$T(1.0)"
    return """
    buffer 1 t $T 1
    buffer 2 y $T $(2b)
    buffer 3 cotangent $T $(2b)
    buffer 4 params $T 15
    buffer 5 dy $T $(2b)
    buffer 6 y_bar $T $(2b)
    buffer 7 params_bar $T 15
    buffer 8 work $T $(3b) @ 0
    buffer 9 work $T $(3b) @ $(64 * cld(24b, 64))
    buffer 10 work Int64 1 @ 0
    buffer 11 record $T $(2b) @ 0
    buffer 12 record $T $(3b) @ $(64 * cld(16b, 64))
    buffer 13 operand $T $(3b)
    program field
    %10[] = searchsorted %1[] %4[15] left
    %8[$b,3] = matmul %2[$b,2] %4[2,3|1,2|0]
    %8[$b,3] = pointwise %8[$b,3] %4[$b,3|0,1|6] :: v1 = x1 + x2; tanh(v1)
    %5[$b,2] = matmul %8[$b,3] %4[3,2|1,3|9]
    program pullback
    %8[$b,3] = matmul %2[$b,2] %4[2,3|1,2|0]
    %8[$b,3] = pointwise %8[$b,3] %4[$b,3|0,1|6] :: v1 = x1 + x2; tanh(v1)
    %5[$b,2] = matmul %8[$b,3] %4[3,2|1,3|9]
    %9[$b,3] = matmul %3[$b,2] %4[2,3|3,1|9]
    %9[$b,3] = pointwise %9[$b,3] %8[$b,3] :: v1 = x2 * x2; v2 = $one - v1; x1 * v2
    %6[$b,2] = matmul %9[$b,3] %4[3,2|2,1|0]
    program joint
    %8[$b,3] = matmul %2[$b,2] %4[2,3|1,2|0]
    %8[$b,3] = pointwise %8[$b,3] %4[$b,3|0,1|6] :: v1 = x1 + x2; tanh(v1)
    %5[$b,2] = matmul %8[$b,3] %4[3,2|1,3|9]
    %9[$b,3] = matmul %3[$b,2] %4[2,3|3,1|9]
    %9[$b,3] = pointwise %9[$b,3] %8[$b,3] :: v1 = x2 * x2; v2 = $one - v1; x1 * v2
    %6[$b,2] = matmul %9[$b,3] %4[3,2|2,1|0]
    %7[2,3|3,1|9] = matmul %3[2,$b|1,2|0] %8[$b,3]
    %7[3,2|2,1|0] = matmul %9[3,$b|1,3|0] %2[$b,2]
    %7[$b,3|0,1|6] = reduce %9[$b,3] sum
    program record
    %11[$b,2] = pointwise %2[$b,2] :: x1
    %8[$b,3] = matmul %2[$b,2] %4[2,3|1,2|0]
    %12[$b,3] = pointwise %8[$b,3] %4[$b,3|0,1|6] :: v1 = x1 + x2; tanh(v1)
    %5[$b,2] = matmul %12[$b,3] %4[3,2|1,3|9]
    program reverse
    %9[$b,3] = matmul %3[$b,2] %4[2,3|3,1|9]
    %13[$b,3] = pointwise %9[$b,3] %12[$b,3] :: v1 = x2 * x2; v2 = $one - v1; x1 * v2
    %6[$b,2] = matmul %13[$b,3] %4[3,2|2,1|0]
    program gather
    %7[2,3|3,1|9] = matmul %3[2,$b|1,2|0] %12[$b,3] add
    %7[3,2|2,1|0] = matmul %13[3,$b|1,3|0] %11[$b,2] add
    %7[$b,3|0,1|6] = reduce %13[$b,3] sum add
    """
end

"Operands of a pointwise kernel: pysemi/compiler/fuse.py puts no more into one."
const MOST_OPERANDS = 8

"A tape with one of each kernel that the perceptron has not."
function kernel_tape(T)
    roles = ("t", "y", "cotangent", "params", "dy", "y_bar", "params_bar")
    buffers = ["buffer $i $role $T 1" for (i, role) in enumerate(roles)]
    # The first kernel of so many operands would cost each process 0.13 s.
    chains = map(0:MOST_OPERANDS) do n
        operands = join(" %8[2,3|$(i % 2),2|0]" for i in 1:n)
        "%9[2,3|4,1|0] = pointwise$operands :: $(n == 0 ? "$T(0.0)" : "x1")"
    end
    return """
    $(join(buffers, "\n"))
    buffer 8 tensor $T 8
    buffer 9 tensor $T 8
    buffer 10 tensor Int64 1
    program field
    $(join(chains, "\n"))
    %9[8] = pointwise %8[8] :: x1
    %9[2,2,2] = matmul %8[2,2,2] %8[2,2,2|4,1,2|0]
    %9[2,4|1,0|0] = reduce %8[2,4] sum
    %9[2,4|1,0|0] = reduce %8[2,4] max
    %9[2,4|1,0|0] = reduce %8[2,4] min
    %9[2|1|0] = window %8[2|1|0] %10[] 2 4
    %9[1|1|0] = take %8[8] %10[1]
    %9[8] = put %10[1] %8[1|1|0] add
    %9[8] = put %10[1] %8[1|1|0] set
    %8[2,1|1,1|0] = solve %9[2,2|2,1|0] %9[2,1|1,1|4] plain
    """
end

"A tape of an event function of `n` states: `tanh(t + θ)`."
function event_tape(T, n)
    sizes = ("t" => 1, "y" => n, "cotangent" => 1, "params" => 1, "dy" => 1, "y_bar" => 1, "params_bar" => 1)
    buffers = ("buffer $i $role $T $size" for (i, (role, size)) in enumerate(sizes))
    return """
    $(join(buffers, "\n"))
    program field
    %5[1] = pointwise %1[1] %4[1] :: v1 = x1 + x2; tanh(v1)
    """
end

"""
Solve forward, to the event that the field `event` tells of if it is not 0, and backward through
the C functions, as Python does, once for each of the `fields`; forward alone where the adjoint is
one of PySemiAdjoints, and that is not there.
"""
function exercise(::Type{T}, fields, name, torchdiffeq, adjoint, event = 0) where {T}
    field, b = held(first(fields)), length(fields)
    n, m = nstates(field), nparams(field)
    u0, times = T.(range(-1, 1; length = n)), [0.0, 0.5, 1.0]
    y, cotangents = zeros(T, n, 3, b), ones(T, n, 3)
    y_bar, params_bar = zeros(T, n, b), zeros(T, m)
    state, augmented = [1, n], [1, n, n + m + 1, 2n + m]
    tol, jumps, text, reports = [1.0e-4], [0.3], "$name\0", Vector{CReport}(undef, 2b)
    stop, solved = Ptr{Stop}(C_NULL), b
    GC.@preserve u0 times y cotangents y_bar params_bar state augmented tol jumps text reports fields begin
        settings(components) = CSettings(
            pointer(text), pointer(tol), 1, pointer(tol), 1, pointer(components),
            length(components) ÷ 2, C_NULL, 0, C_NULL, 1000, torchdiffeq, 0.0, 0.9, 10.0, 0.2,
            pointer(jumps), 1, C_NULL, 0
        )
        forward = map(1:b) do i
            CForward(
                settings(state), pointer(times), 3, pointer(u0), pointer(view(y, :, :, i)),
                1 + adjoint, 100, 1, stop, C_NULL, event
            )
        end
        border_forward(pointer(forward), pointer(reports, 1), b, pointer(fields), b)
        if adjoint_name(adjoint) === :discrete || HAS_ADJOINTS[]
            backward = map(1:b) do i
                CBackward(
                    reports[i].solution, settings(adjoint == 0 ? augmented : state), adjoint, C_NULL, 0,
                    pointer(cotangents), pointer(view(y_bar, :, i)), pointer(params_bar), 1, stop
                )
            end
            border_backward(pointer(backward), pointer(reports, b + 1), b, pointer(fields), b)
            solved = 2b
        end
        adjoint == 2 && border_interpolate(
            first(fields), reports[1].solution, pointer(times), 3, Ptr{Cvoid}(pointer(y)), stop
        )
    end
    foreach(i -> border_release(reports[i].solution), 1:b)
    all(report -> report.status == Int32(SUCCESS), view(reports, 1:solved)) ||
        error("$name failed: $(MESSAGE[])")
    return nothing
end

"Numbers of two fields that are alike."
function perceptrons(::Type{T}) where {T}
    text = perceptron_tape(T, 4)
    numbers, addresses, kept = [0, 0], fill(C_NULL, 13), [0]
    GC.@preserve text numbers addresses kept begin
        for i in 1:2
            border_build(
                pointer(text), sizeof(text), pointer(numbers, i), pointer(addresses), pointer(kept)
            )
            copyto!(held(numbers[i]).memory.params, range(-1, 1; length = 15))
        end
    end
    return numbers
end

"Every combination of what has a type of its own, and is used often."
function exercise(::Type{T}) where {T}
    numbers = perceptrons(T)
    foreach(level -> border_evaluate(numbers[1], level), 1:4)
    exercise(T, numbers, "DP5", 0, 2)
    for (name, torchdiffeq) in (("DP5", 0), ("Tsit5", 0), ("BS3", 0), ("Vern7", 0), ("DP5", 1))
        # Once more, with what the first left for others.
        foreach(_ -> exercise(T, numbers[1:1], name, torchdiffeq, 2), 1:2)
    end
    kernels = read_tape(kernel_tape(T))
    copyto!(kernels.buffers[8], 1:8)
    TapeProgram(kernels.programs["field"])()
    foreign_field(T, 2, 2, C_NULL)
    return exercise_adjoints(T)
end

"What the adjoints of PySemiAdjoints take; forward alone where it is not there."
function exercise_adjoints(::Type{T}) where {T}
    numbers = perceptrons(T)
    exercise(T, numbers, "DP5", 0, 0)
    for (name, torchdiffeq, adjoint) in (
            ("DP5", 0, 0), ("DP5", 0, 1), ("Tsit5", 0, 0), ("Tsit5", 0, 1), ("BS3", 0, 0),
            ("Vern7", 0, 0), ("DP5", 1, 0),
        )
        exercise(T, numbers[1:1], name, torchdiffeq, adjoint)
    end
    event = Field(read_tape(event_tape(T, 8)))
    fill!(event.memory.params, -0.25)
    exercise(T, numbers[1:1], "DP5", 0, 0, hold(event))
    return nothing
end

@setup_workload begin
    @compile_workload begin
        listing()
        look_for_signals_by(1, 2, 3, 4)
        mktempdir() do folder
            keep_kernels(folder, 0)
            exercise(Float32)
            exercise(Float64)
        end
    end
    KERNEL_FOLDER[] = nothing
    MESSAGE[] = ""
    SIGNAL_FUNCTIONS[] = ntuple(Returns(C_NULL), 4)
    empty!(HELD)
    empty!(METHODS)
    empty!(NAMED)
    empty!(ALGORITHMS_FOUND)
end
