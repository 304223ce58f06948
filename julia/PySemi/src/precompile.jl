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
    """
end

"Solve forward and backward as Python would, with every combination of what has a type of its own."
function exercise(::Type{T}, text) where {T}
    field = Field(read_tape(text))
    field.memory.params .= T.(range(-1, 1; length = nparams(field)))
    n, m = nstates(field), nparams(field)
    u0 = T.(range(-1, 1; length = n))
    times = [0.0, 0.5, 1.0]
    y, cotangents = zeros(T, n, 3), ones(T, n, 3)
    y_bar, params_bar = zeros(T, n), zeros(T, m)
    norms = (ComponentNorm([1:n], T[]), ComponentNorm([1:n, (n + m + 1):(2n + m)], T[]))
    for (name, torchdiffeq, adjoints) in (
            ("DP5", false, (:backsolve, :gauss)), ("Tsit5", false, (:backsolve, :gauss)),
            ("BS3", false, (:backsolve,)), ("Vern7", false, (:backsolve,)),
            ("DP5", true, (:backsolve,)),
        )
        alg = algorithm(name)
        jumps = [0.3]
        for adjoint in adjoints
            controls = Controls(; torchdiffeq)
            settings(norm) = Settings(T(1.0e-4), T(1.0e-4), norm, 1000, controls, jumps, Float64[])
            start(from, direction) = prepare!(
                field; recording = true, stop = Ptr{Int32}(C_NULL), from, direction, jumps,
                wants_params = true
            )
            start(0.0, 1)
            solved = solve_forward!(y, field, u0, times, alg, settings(norms[1]); dense = adjoint === :gauss)
            start(1.0, -1)
            solve_backward!(
                y_bar, params_bar, field, solved, alg, adjoint, cotangents,
                settings(norms[adjoint === :gauss ? 1 : 2])
            )
        end
    end
    return params_bar
end

@setup_workload begin
    @compile_workload begin
        entry_points()
        for T in (Float32, Float64)
            exercise(T, perceptron_tape(T, 4))
            foreign_field(T, 2, 2, C_NULL)
        end
    end
    empty!(HELD)
end
