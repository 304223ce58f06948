using PySemi: NotRungeKutta, runge_kutta

"A combination as a vector."
function dense_weights(combination, n)
    weights = zeros(n)
    for (i, weight) in combination
        weights[i] = weight
    end
    return weights
end

"The coefficients as a lower triangular matrix."
function matrix_of(method)
    n = PySemi.nstages(method)
    A = zeros(n, n)
    for (i, row) in enumerate(method.rows), (j, a) in row
        A[i, j] = a
    end
    return A
end

@testset "$name's coefficients satisfy the conditions of order $order" for (name, order) in (
        "Euler" => 1, "Midpoint" => 2, "Heun" => 2, "Ralston" => 2, "BS3" => 3, "OwrenZen3" => 3, "RK4" => 4,
        "DP5" => 5, "Tsit5" => 5, "BS5" => 5, "DP8" => 8, "Vern7" => 7, "Vern9" => 9,
    )
    method = Base.invokelatest(runge_kutta, algorithm(name))
    n = PySemi.nstages(method)
    A, b, c = matrix_of(method), dense_weights(method.weights, n), method.nodes
    @test istril(A, -1)
    @test A * ones(length(b)) ≈ c atol = 1.0e-12
    # Quadrature conditions, and those of two trees that are no quadratures.
    @test all(k -> b' * c .^ (k - 1) ≈ 1 / k, 1:order)
    order >= 3 && @test b' * A * c ≈ 1 / 6
    order >= 4 && @test b' * (c .* (A * c)) ≈ 1 / 8 && b' * A * A * c ≈ 1 / 24
    # Interpolation is right for y' = 1 and, of third order, for y' = t.
    for Θ in (0.1, 0.5, 0.9)
        w = dense_weights(method.between(Θ), n)
        @test sum(w) ≈ Θ
        order >= 3 && @test w' * c ≈ Θ^2 / 2
    end
end

@testset "weights inside of a step are polynomials: $name" for name in (
        "Euler", "Ralston", "Heun", "BS3", "RK4", "DP5", "Tsit5", "BS5", "Vern7",
    )
    alg = algorithm(name)
    method = Base.invokelatest(runge_kutta, alg)
    @test method.between isa PySemi.WeightPolynomials
    # The order of an interpolant, and the ends of the step.
    n = PySemi.nstages(method)
    @test sum(dense_weights(method.between(0.3), n)) ≈ 0.3 rtol = 1.0e-12
    @test dense_weights(method.between(1.0), n) ≈ dense_weights(method.weights, n) atol = 1.0e-11
    @test maximum(abs, dense_weights(method.between(0.0), n)) < 1.0e-11
end

@testset "what is no polynomial stays what it is" begin
    between(Θ) = [1 => Θ, 2 => sin(Θ)]
    @test PySemi.as_polynomials(between, 2) isa PySemi.WeightPolynomials # to rounding
    steps(Θ) = [1 => Θ, 2 => float(Θ > 0.5)]
    @test PySemi.as_polynomials(steps, 2) === steps
end

@testset "torchdiffeq's interpolation goes through both ends and its middle, $name" for name in ("DP5", "BS3")
    alg = algorithm(name)
    theirs = runge_kutta(alg, true)
    own = runge_kutta(alg)
    @test theirs.rows == own.rows && theirs.weights == own.weights
    near_end, end_weights = dense_weights.((theirs.between(1 - 1.0e-13), own.weights), 7)
    @test near_end ≈ end_weights atol = 1.0e-10
    name == "DP5" &&
        @test dense_weights(theirs.between(0.5), 7)[[1, 3, 4, 5, 6, 7]] ≈ collect(PySemi.DP5_MIDDLE)
end

@testset "$name is no method that can be made again" for name in ("Rodas5P", "KenCarp4", "ImplicitEuler")
    @test_throws NotRungeKutta Base.invokelatest(runge_kutta, algorithm(name))
end

@testset "a second step that looks further back than its start is noticed" begin
    first, second = [0.0, 0.5, 1.0], [3, 4, 5]
    @test PySemi.same_combination([0.0, 0, 0, 0.5, 1, 0], first, second)
    @test !PySemi.same_combination([0.0, 0.1, 0, 0.5, 1, 0], first, second)
    @test !PySemi.same_combination([0.0, 0, 0, 0.4, 1, 0], first, second)
end

"The states at `times`, by the steps of `log` from another state."
function remade(field, log, u0, times)
    prepare!(
        field; recording = false, stop = Ptr{PySemi.Stop}(C_NULL), from = times[1],
        direction = times[end] >= times[1] ? 1 : -1, log.jumps, wants_params = true
    )
    memory = PySemi.StepMemory(field, PySemi.nstages(log.method))
    fill!(memory.used, true)
    state, out = copy(u0), [copy(u0)]
    unknown = StepLog(field, 1, log.method, log.jumps)
    append!(unknown.starts, log.starts)
    append!(unknown.ends, log.ends)
    for (n, (from, to)) in enumerate(zip(log.starts, log.ends))
        PySemi.make_stages!(memory, field, unknown, n, state; records = false)
        h = to - from
        for t in times[2:end]
            (t - from) * (t - to) <= 0 && t != from || continue
            weights = t == to ? log.method.weights : log.method.between((t - from) / h)
            push!(out, PySemi.add_combination!(copy(state), h, weights, memory.slopes))
        end
        PySemi.add_combination!(state, h, log.method.weights, memory.slopes)
    end
    return stack(out)
end

function central_difference(loss, x, direction; ε = 1.0e-5)
    return (loss(x + ε * direction) - loss(x - ε * direction)) / 2ε
end

"y' = A tanh(y) + θ₀ sin t, with a hand-written pullback; the parameters are A and θ₀."
function wave_field(A, θ0)
    n = size(A, 1)
    matrix(m) = reshape(view(m.params, 1:(n^2)), n, n)
    field!(m) = (mul!(m.dy, matrix(m), tanh.(m.y)); m.dy .+= m.params[end] * sin(m.t[1]))
    function pullback!(m)
        h = tanh.(m.y)
        m.y_bar .= (matrix(m)' * m.cotangent) .* (1 .- h .^ 2)
        copyto!(view(m.params_bar, 1:(n^2)), vec(m.cotangent * h'))
        return m.params_bar[end] = sum(m.cotangent) * sin(m.t[1])
    end
    return programmed(field!, pullback!, zeros(n), [vec(A); θ0])
end

const CASES = (
    ("DP5", Controls()), ("DP5", Controls(torchdiffeq = true)), ("Tsit5", Controls()), ("BS3", Controls()),
    ("BS3", Controls(torchdiffeq = true)), ("Vern7", Controls()), ("Heun", Controls()), ("RK4", Controls()),
    ("Midpoint", Controls()), ("BS5", Controls()), ("DP8", Controls()),
    ("Euler", Controls(first_step = 0.05)),
)

@testset "gradients are those of the steps: $method, torchdiffeq $(controls.torchdiffeq), $(times[end])" for
    (method, controls) in CASES, times in ([0.0, 0.37, 0.5, 2.0, 3.0], [1.0, 0.2, -1.5])

    A, u0 = randn(3, 3), randn(3)
    cotangents = randn(3, length(times))
    field = wave_field(A, 0.7)
    θ = copy(field.memory.params)
    got = discrete_gradient(field, u0, times, cotangents; method, controls)
    @test got.code == PySemi.ReturnCode.Success
    @test remade(field, got.log, u0, times) ≈ got.y rtol = 1.0e-12
    loss(u) = sum(cotangents .* remade(field, got.log, u, times))
    δ = randn(3)
    @test central_difference(loss, u0, δ) ≈ dot(got.y_bar, δ) rtol = 1.0e-8
    η = randn(length(θ))
    function loss_of_params(p)
        copyto!(field.memory.params, p)
        return loss(u0)
    end
    @test central_difference(loss_of_params, θ, η) ≈ dot(got.params_bar, η) rtol = 1.0e-8
    @test got.backward.accepted == length(got.log.starts)
    # Euler's steps are under no control, and so are not counted on the way.
    method == "Euler" || @test got.forward.accepted == length(got.log.starts)
end

@testset "nothing of f is computed again of steps whose stages are kept: $method, torchdiffeq $(controls.torchdiffeq)" for
    (method, controls) in CASES

    times = [0.0, 0.37, 0.5, 2.0, 3.0]
    A, u0, cotangents = randn(3, 3), randn(3), randn(3, 5)
    options = (; method, controls, tol = 1.0e-6)
    known = discrete_gradient(wave_field(A, 0.7), u0, times, cotangents; options..., capacity = 100_000)
    own, n = known.log.method.own, length(known.log.starts)
    @test length(known.log.stages) == n
    # RK4 takes evaluations between those of its stages, to estimate the error; some interpolants
    # take others after them, and the next step's first stage lies before these.
    most = PySemi.nstages(known.log.method) > own ? length(times) : 0
    known.forward.rejected > 2 && (most += n ÷ 4)
    @test method == "RK4" || count(isempty, known.log.stages) <= most
    unknown = discrete_gradient(wave_field(A, 0.7), u0, times, cotangents; options..., capacity = 2n, keep = false)
    @test isempty(unknown.log.stages) && length(unknown.log.states) == n
    @test relative(known.y_bar, unknown.y_bar) < 1.0e-13
    @test relative(known.params_bar, unknown.params_bar) < 1.0e-13
    @test known.backward.nvjp == unknown.backward.nvjp
    if method in ("DP5", "Tsit5", "BS3") && known.forward.rejected <= 2
        @test known.backward.nf == 0
    elseif method != "RK4"
        @test known.backward.nf < unknown.backward.nf
    end
end

@testset "stages are found past rejected attempts, and not where another start went before" begin
    field = wave_field(randn(3, 3), 0.7)
    method = runge_kutta(algorithm("DP5"))
    slope = zeros(3)
    function noted_steps(times...)
        log = StepLog(field, 1000, method, Float64[])
        for (i, t) in enumerate(times)
            PySemi.note!(log.trail, t, fill!(slope, i), zeros(3))
        end
        return log
    end
    attempt(from, h) = from .+ h .* method.nodes[2:end]
    numbers(stages) = [stage.slope[1] for stage in stages]
    log = noted_steps(0.0, attempt(0.0, 1.0)..., attempt(0.0, 0.5)...)
    @test numbers(PySemi.take_stages!(log, 0.0, 0.5)) == [1; 8:13]
    # The last is the next step's first, which it takes without a copy.
    log = noted_steps(0.0, attempt(0.0, 1.0)..., attempt(1.0, 2.0)..., attempt(1.0, 0.5)...)
    first_step = PySemi.take_stages!(log, 0.0, 1.0)
    @test isempty(first_step) # too long ago
    log = noted_steps(0.0, attempt(0.0, 1.0)...)
    first_step = PySemi.take_stages!(log, 0.0, 1.0)
    foreach(t -> PySemi.note!(log.trail, t, fill!(slope, 9), zeros(3)), attempt(1.0, 1.0))
    second_step = PySemi.take_stages!(log, 1.0, 2.0)
    @test first_step[end] === second_step[1] && length(log.borrowed) == 13
    @test numbers(first_step) == 1:7
    # However long the trail goes on, what was taken stays as it is.
    foreach(i -> PySemi.note!(log.trail, 5.0, fill!(slope, -i), zeros(3)), 1:50)
    @test numbers(first_step) == 1:7 && numbers(second_step) == [7; fill(9, 6)]
    # A rejected attempt is longer; another evaluation of the same times is something else.
    log = noted_steps(9.0, 0.0, attempt(0.0, 0.5)..., attempt(0.0, 0.5)...)
    @test numbers(PySemi.take_stages!(log, 0.0, 0.5)) == 2:8
    @test isempty(PySemi.take_stages!(noted_steps(9.0, 0.0, attempt(0.0, 0.2)..., attempt(0.0, 0.5)...), 0.0, 0.5))
    # The first evaluation of a solve is known, whatever follows it.
    log = noted_steps(0.0, 0.01, attempt(0.0, 0.2)..., attempt(0.0, 0.5)...)
    @test numbers(PySemi.take_stages!(log, 0.0, 0.5)) == [1; 9:14]
    @test isempty(PySemi.take_stages!(noted_steps(0.2, attempt(0.0, 0.5)...), 0.0, 0.5))
    @test isempty(PySemi.take_stages!(noted_steps(attempt(0.0, 0.5)...), 0.0, 0.5))
end

@testset "stages that fit are kept, of the rest some are made again: $capacity" for capacity in (30, 100, 300, 1000)
    times = collect(range(0, 10; length = 6))
    A, u0, cotangents = randn(3, 3), randn(3), randn(3, 6)
    options = (; method = "DP5", tol = 1.0e-7)
    all_kept = discrete_gradient(wave_field(A, 0.7), u0, times, cotangents; options..., capacity = 10^6)
    got = discrete_gradient(wave_field(A, 0.7), u0, times, cotangents; options..., capacity)
    (; log) = got
    @test length(log.stages) * log.stages_size <= capacity / 2
    @test length(log.states) + length(log.stages) * log.stages_size <= capacity + 1
    @test relative(got.y_bar, all_kept.y_bar) < 1.0e-10
    @test relative(got.params_bar, all_kept.params_bar) < 1.0e-10
end

@testset "what a log let go of serves the next solve, and is in nobody's hands twice" begin
    times = [0.0, 1.0, 3.0]
    A, u0, cotangents = randn(3, 3), randn(3), randn(3, 3)
    field = wave_field(A, 0.7)
    solve() = discrete_gradient(field, u0, times, cotangents; method = "DP5", tol = 1.0e-6)
    first_log, second_log = solve().log, solve().log
    arrays(log) = Set(objectid(x.slope) for x in [log.trail.stages; log.borrowed])
    @test isempty(intersect(arrays(first_log), arrays(second_log)))
    expected = solve()
    foreach(PySemi.release!, (first_log, second_log, expected.log))
    spare = length(field.pool.spare)
    for _ in 1:3
        again = solve()
        @test again.params_bar == expected.params_bar && again.y_bar == expected.y_bar
        PySemi.release!(again.log)
        @test length(field.pool.spare) == spare
        @test allunique(objectid(x.slope) for x in field.pool.spare)
    end
    # A log that was let go of still says everything, by evaluations.
    y_bar, params_bar = zeros(3), zeros(10)
    started = prepare!(
        field; recording = true, stop = Ptr{PySemi.Stop}(C_NULL), from = 0.0, direction = 1, jumps = Float64[],
        wants_params = true
    )
    pull_back!(y_bar, params_bar, started, expected.log, times, cotangents)
    @test y_bar ≈ expected.y_bar rtol = 1.0e-13
    @test field.tally.nf > 0
end

@testset "a field that has solved before solves as a new one does: $method, $torchdiffeq" for
    (method, torchdiffeq) in (
        ("DP5", false), ("Tsit5", false), ("BS3", false), ("Vern7", false), ("DP5", true), ("BS3", true),
    )

    A = randn(3, 3)
    worn = wave_field(A, 0.7)
    again = 0
    told(tally) = map(name -> getfield(tally, name), fieldnames(typeof(tally)))
    for (times, tol, jumps, first_step) in (
            ([0.0, 1.0, 3.0], 1.0e-4, Float64[], 0.0), ([0.0, 0.2, 0.5, 3.0], 1.0e-7, Float64[], 0.0),
            ([0.0, 3.0], 1.0e-5, [0.3], 0.0), ([0.0, 3.0], 1.0e-5, [0.3, 0.8], 0.01),
            ([0.0, 3.0], 1.0e-5, [0.3], 0.01), ([0.0, 3.0], 1.0e-4, Float64[], 0.0),
            ([1.0, -1.5], 1.0e-4, Float64[], 0.0), ([1.0, 0.0, -1.5], 1.0e-4, [0.3], 0.0),
            ([0.0, 3.0], NaN, Float64[], 0.0), ([0.0, 3.0], 1.0e-4, Float64[], 0.0),
            ([0.0, 3.0], 1.0e-6, Float64[], 0.0),
        )
        u0, cotangents = randn(3), randn(3, length(times))
        before = worn.kept
        controls = Controls(; torchdiffeq, first_step)
        solve(field) = discrete_gradient(field, u0, times, cotangents; method, tol, jumps, controls)
        got, expected = solve(worn), solve(wave_field(A, 0.7))
        again += before !== nothing && worn.kept === before
        # What a failed solve leaves of the states is nobody's.
        results(x) = (x.code, x.code == PySemi.ReturnCode.Success ? (x.y, x.y_bar, x.params_bar) : nothing)
        @test isequal(results(got), results(expected))
        @test isequal(told(got.forward), told(expected.forward))
        @test isequal(told(got.backward), told(expected.backward))
    end
    @test again >= 4
end

@testset "fewer checkpoints, the same gradient ($capacity)" for capacity in (1, 2, 3, 7)
    times = collect(range(0, 10; length = 6))
    A, u0, cotangents = randn(3, 3), randn(3), randn(3, 6)
    options = (; method = "DP5", tol = 1.0e-9)
    all_kept = discrete_gradient(wave_field(A, 0.7), u0, times, cotangents; options...)
    few = discrete_gradient(wave_field(A, 0.7), u0, times, cotangents; options..., capacity)
    @test length(all_kept.log.states) == length(all_kept.log.starts) > 50
    @test length(few.log.states) <= max(capacity, 2)
    @test relative(few.y_bar, all_kept.y_bar) < 1.0e-10
    @test relative(few.params_bar, all_kept.params_bar) < 1.0e-10
    @test few.backward.nf > all_kept.backward.nf
    @test few.backward.nvjp == all_kept.backward.nvjp
end

@testset "any time within is made again, $method, $(capacity) checkpoints, $(times[end])" for
    method in ("DP5", "Tsit5", "Vern7", "RK4"), capacity in (2, 1000), times in ([0.0, 3.0], [1.0, -1.5])

    A, u0 = randn(3, 3), randn(3)
    field = wave_field(A, 0.7)
    (; log) = discrete_gradient(field, u0, times, ones(3, 2); method, capacity)
    # Several in one step, steps' ends, both ends, one twice, steps without any.
    span = log.ends[end] - log.starts[1]
    within = log.starts[1] .+ span .* [0, 0, 0.01, 0.011, 0.4, 0.4, 0.97]
    asked = sort!([within; log.ends[[1, end]]]; rev = span < 0)
    out = zeros(3, length(asked))
    PySemi.interpolate_steps!(out, field, log, asked)
    expected = remade(field, log, u0, unique(asked))
    @test out ≈ expected[:, indexin(asked, unique(asked))] rtol = 1.0e-12
end

@testset "a jump is differentiated on the side that each step saw" for torchdiffeq in (false, true)
    # y' = θ h(t) with h = 1, then 3: exact for every method, and so is dy/dθ.
    field = time_field(t -> t < 0.3 ? 1.0 : 3.0, [2.0])
    got = discrete_gradient(
        field, [0.0], [0.0, 0.2, 1.0], ones(1, 3); method = "DP5", jumps = [0.3], controls = Controls(; torchdiffeq)
    )
    @test got.y ≈ [0.0 0.4 (0.6 + 4.2)] rtol = 1.0e-9
    @test got.y_bar ≈ [3.0]
    # Of y(0.2) and y(1): the integrals of h.
    @test got.params_bar ≈ [0.2 + 2.4] rtol = 1.0e-9
end

@testset "one time only, and a field in single precision" begin
    got = discrete_gradient(wave_field(randn(3, 3), 0.7), ones(3), [2.0], ones(3, 1))
    @test got.y_bar == ones(3) && iszero(got.params_bar)
    θ = Float32[0.5, -1]
    single = discrete_gradient(growth_field(θ), Float32[1, 2], [0.0, 1.0], Float32[0 1; 0 1]; tol = 1.0f-5)
    @test single.y_bar ≈ exp.(θ) rtol = 1.0e-4
    @test single.params_bar ≈ [1, 2] .* exp.(θ) rtol = 1.0e-4
end

@testset "an event inside the last step is a point of it, $method" for method in ("DP5", "Tsit5", "Vern7")
    A, u0 = randn(3, 3), randn(3)
    field, alg = wave_field(A, 0.7), algorithm(method)
    log = StepLog(field, 100, runge_kutta(alg), Float64[])
    start() = prepare!(
        field; recording = true, stop = Ptr{PySemi.Stop}(C_NULL), from = 0.0, direction = 1, jumps = Float64[],
        wants_params = true
    )
    start()
    settings = Settings(1.0e-6, 1.0e-6, ComponentNorm([1:3]), 1000, Controls(), Float64[], Float64[])
    out = zeros(3, 2)
    solved = PySemi.solve_until!((u, t) -> t - 0.777, out, field, u0, 0.0, 1, alg, settings, log)
    @test solved.times[2] ≈ 0.777 && log.ends[end] > 0.777 > log.starts[end]
    @test remade(field, log, u0, solved.times) ≈ out rtol = 1.0e-12
    cotangents, δ = randn(3, 2), randn(3)
    y_bar, params_bar = zeros(3), zeros(10)
    start()
    pull_back!(y_bar, params_bar, field, log, solved.times, cotangents)
    loss(u) = sum(cotangents .* remade(field, log, u, solved.times))
    @test central_difference(loss, u0, δ) ≈ dot(y_bar, δ) rtol = 1.0e-8
end
