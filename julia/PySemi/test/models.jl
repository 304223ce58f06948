# Vector fields with known solutions, and how the tests solve them.

using PySemi:
    ComponentNorm, Controls, Settings, StepLog, algorithm, prepare!, pull_back!, runge_kutta,
    solve_forward!
using PySemiAdjoints: solve_backward!

"""
    programmed(field!, pullback!, y, params)

A field whose programs are Julia functions of its memory, on arrays like `y`. `pullback!`
fills `y_bar` and `params_bar`, from inputs alone. Counts of the programs' runs are in `field.roots`.
"""
function programmed(field!, pullback!, y::V, params) where {V}
    zeroed(n) = fill!(similar(y, n), 0)
    n, m = length(y), length(params)
    memory = Memory{eltype(V), V}(
        zeroed(1), zeroed(n), zeroed(n), copyto!(zeroed(m), params), zeroed(n), zeroed(n), zeroed(m)
    )
    runs = Dict("field" => 0, "pullback" => 0, "joint" => 0, "reverse" => 0)
    function program(name, acts...)
        return Thunk() do
            runs[name] += 1
            foreach(act -> act(memory), acts)
            return nothing
        end
    end
    sum = zeroed(m)
    function add!(memory)
        copyto!(sum, memory.params_bar)
        pullback!(memory)
        return memory.params_bar .+= sum
    end
    return Field(
        memory, program("field", field!), program("pullback", field!, pullback!),
        program("joint", field!, pullback!), runs; reverse = program("reverse", add!)
    )
end

"y' = A y, the parameters are A, column by column."
function linear_field(A::AbstractMatrix{T}) where {T}
    n = size(A, 1)
    matrix(m) = reshape(m.params, n, n)
    field!(m) = mul!(m.dy, matrix(m), m.y)
    function pullback!(m)
        mul!(m.y_bar, matrix(m)', m.cotangent)
        return mul!(reshape(m.params_bar, n, n), m.cotangent, m.y')
    end
    return programmed(field!, pullback!, zeros(T, n), vec(A))
end

"y' = θ .* y, by broadcasts alone."
growth_field(θ) = programmed(
    m -> m.dy .= m.params .* m.y,
    m -> (m.y_bar .= m.params .* m.cotangent; m.params_bar .= m.cotangent .* m.y),
    θ, θ,
)

"y' = θ h(t), one state."
time_field(h, θ) = programmed(
    m -> m.dy .= m.params .* h.(m.t),
    m -> (m.y_bar .= 0; m.params_bar .= m.cotangent .* h.(m.t)),
    similar(θ, 1), θ,
)

"""
Solve forward and backward as `border.jl` does.

`parameter_parts` says that the adjoint's norm looks at a_θ too.
"""
function solve_both(
        field::Field{T}, u0, times, cotangents; method = "Tsit5", adjoint = :backsolve,
        tol = 1.0e-8, controls = Controls(), jumps = Float64[], steps = Float64[],
        maxiters = 10_000, parameter_parts = false
    ) where {T}
    n, m = length(u0), length(field.memory.params)
    direction = times[end] >= times[1] ? 1 : -1
    state = ComponentNorm([1:n], similar(u0, 0))
    augmented = ComponentNorm(
        [1:n, (parameter_parts ? [(n + 1):(n + m)] : [])..., (n + m + 1):(2n + m)], similar(u0, 0)
    )
    with_params = ComponentNorm([1:n, (parameter_parts ? [(n + 1):(n + m)] : [])...], similar(u0, 0))
    settings(norm) = Settings(T(tol), T(tol), norm, maxiters, controls, jumps, steps)
    start(from, direction) = prepare!(
        field; recording = true, stop = Ptr{PySemi.Stop}(C_NULL), from, direction, jumps,
        wants_params = true
    )
    y = similar(u0, n, length(times))
    y_bar, params_bar = similar(u0), similar(u0, m)
    start(times[1], direction)
    dense = adjoint !== :backsolve
    alg = algorithm(method; dense)
    # As at the border: the algorithm's package may have been loaded just now.
    solved = Base.invokelatest(solve_forward!, y, field, u0, times, alg, settings(state); dense)
    forward = deepcopy(field.tally)
    start(times[end], -direction)
    code = Base.invokelatest(
        solve_backward!, y_bar, params_bar, field, solved, alg, adjoint, cotangents,
        settings(adjoint === :backsolve ? augmented : adjoint === :interpolating ? with_params : state)
    )
    return (; y, y_bar, params_bar, forward, backward = deepcopy(field.tally), solved, code)
end

"""
Solve forward, noting the steps, and pull `cotangents` back over them; with the stages that there
is room for if `keep`, else without.
"""
function discrete_gradient(
        field, u0::AbstractVector{T}, times, cotangents; method = "Tsit5", capacity = 1000, tol = 1.0e-5,
        controls = Controls(), jumps = Float64[], steps = Float64[], keep = true
    ) where {T}
    alg = algorithm(method)
    log = StepLog(field, capacity, Base.invokelatest(runge_kutta, alg, controls.torchdiffeq), jumps)
    log.keeps_stages = keep
    direction = times[end] >= times[1] ? 1 : -1
    start() = prepare!(
        field; recording = true, stop = Ptr{PySemi.Stop}(C_NULL), from = times[1], direction, jumps,
        wants_params = true
    )
    norm = ComponentNorm([1:length(u0)], similar(u0, 0))
    settings = Settings(T(tol), T(tol), norm, 10_000, controls, jumps, steps)
    y = similar(u0, length(u0), length(times))
    start()
    solved = Base.invokelatest(solve_forward!, y, field, u0, times, alg, settings; log)
    forward = deepcopy(field.tally)
    y_bar, params_bar = similar(u0), similar(field.memory.params)
    start()
    pull_back!(y_bar, params_bar, field, log, times, cotangents)
    return (; y, y_bar, params_bar, log, code = solved.code, forward, backward = deepcopy(field.tally))
end

"Solve forward alone."
function solve_ahead(
        field::Field{T}, u0, times; method = "Tsit5", tol = 1.0e-8, controls = Controls(),
        jumps = Float64[], steps = Float64[], maxiters = 10_000, stop = Ptr{PySemi.Stop}(C_NULL)
    ) where {T}
    prepare!(
        field; recording = true, stop, from = times[1],
        direction = times[end] >= times[1] ? 1 : -1, jumps, wants_params = false
    )
    norm = ComponentNorm([1:length(u0)], similar(u0, 0))
    y = similar(u0, length(u0), length(times))
    settings = Settings(T(tol), T(tol), norm, maxiters, controls, jumps, steps)
    solved = Base.invokelatest(solve_forward!, y, field, u0, times, algorithm(method), settings)
    return (; y, code = solved.code, tally = field.tally)
end

"""
States and gradients of y' = A y for the loss `sum(cotangents .* y)`, by matrix exponentials.

The gradient of A is ∫ e^{A'(t-s)} c y(s)' ds: a block of the exponential of a larger matrix
(Van Loan 1978).
"""
function exact_linear(A, u0, times, cotangents)
    A, u0, cotangents = Float64.(A), Float64.(u0), Float64.(cotangents)
    n = length(u0)
    y = stack(exp(A * (t - times[1])) * u0 for t in times)
    y_bar, A_bar = zeros(n), zeros(n, n)
    for (i, t) in enumerate(times)
        c, s = cotangents[:, i], t - times[1]
        y_bar += exp(A' * s) * c
        A_bar += exp([A' c * u0'; zeros(n, n) A'] * s)[1:n, (n + 1):2n]
    end
    return (; y, y_bar, params_bar = vec(A_bar))
end

relative(a, b) = norm(a - b) / norm(b)
