const ADJOINTS = (:backsolve, :interpolating, :gauss, :quadrature)

using PySemi: ReturnCode

const SPIRAL = [-0.1 2.0 0.3; -2.0 -0.1 0.0; 0.2 0.1 -0.5]

# Times, and how exact a gradient can be expected.
const OBSERVED = (
    "two" => [0.0, 1.5],
    "decreasing" => [1.0, 0.4, -0.5],
    "many" => collect(range(0, 2; length = 200)),
    "unequal" => [0.1, 0.10001, 0.7, 2.0],
)

@testset "y' = Ay, $T, $method, $adjoint, $name times" for (T, tol, bound) in ((Float64, 1.0e-10, 1.0e-7), (Float32, 1.0e-5, 1.0e-3)),
        method in ("DP5", "Tsit5", "BS3", "Vern7", "BS5"), adjoint in ADJOINTS,
        (name, times) in OBSERVED

    method == "BS3" && T == Float64 && (tol = 1.0e-8; bound = 1.0e-6)
    A = T.(SPIRAL)
    u0 = T[1, -0.5, 2]
    cotangents = randn(T, 3, length(times))
    both = solve_both(linear_field(A), u0, times, cotangents; method, adjoint, tol)
    exact = exact_linear(A, u0, times, cotangents)
    @test both.code == both.solved.code == ReturnCode.Success
    @test relative(both.y, exact.y) < bound
    @test relative(both.y_bar, exact.y_bar) < bound
    @test relative(both.params_bar, exact.params_bar) < bound
    @test eltype(both.y) == T
end

@testset "a perceptron's gradients are those of finite differences, $adjoint" for adjoint in ADJOINTS
    field = Field(PySemi.read_tape(PySemi.perceptron_tape(Float64, 4)))
    θ, u0 = randn(15), randn(8)
    times, cotangents = [0.0, 0.4, 1.0], randn(8, 3)
    field.memory.params .= θ
    both = solve_both(field, u0, times, cotangents; tol = 1.0e-11, adjoint)
    function loss(u0, θ)
        field.memory.params .= θ
        return dot(cotangents, solve_ahead(field, u0, times; tol = 1.0e-11).y)
    end
    h = 1.0e-4
    # The fourth-order formula; the solves are smooth in their arguments to about 1e-11.
    slope(f) = (8 * (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h
    unit(n, i) = [Float64(i == j) for j in 1:n]
    @test both.y_bar ≈ [slope(s -> loss(u0 + s * unit(8, i), θ)) for i in 1:8] rtol = 1.0e-6
    @test both.params_bar ≈ [slope(s -> loss(u0, θ + s * unit(15, i))) for i in 1:15] rtol = 1.0e-6
end

@testset "$method solves a stiff equation in few steps" for method in ("KenCarp4", "Rodas5P")
    A, u0, times = [-1000.0 999.0; 1.0 -2.0], [1.0, 0.0], [0.0, 0.7, 1.5]
    solved = solve_ahead(linear_field(A), u0, times; method, tol = 1.0e-8)
    @test solved.code == ReturnCode.Success
    @test relative(solved.y, exact_linear(A, u0, times, zeros(2, 3)).y) < 1.0e-5
    @test solved.tally.accepted < solve_ahead(linear_field(A), u0, times).tally.accepted / 4
end

@testset "$method has gradients, $adjoint" for method in ("KenCarp4", "Rodas5P"), adjoint in ADJOINTS
    A, u0, times, cotangents = [-1.0 2.0; 1.0 -2.0], [1.0, 0.0], [0.0, 0.7, 1.5], randn(2, 3)
    exact = exact_linear(A, u0, times, cotangents)
    both = solve_both(linear_field(A), u0, times, cotangents; method, adjoint)
    @test relative(both.y_bar, exact.y_bar) < 1.0e-5
    @test relative(both.params_bar, exact.params_bar) < 1.0e-5
end

@testset "quadrature has the gradients of a stiff problem, $method" for method in ("KenCarp4", "Rodas5P", "auto")
    A, u0 = [-1000.0 999.0; 0.5 -1.0], [2.0, 1.0]
    times, cotangents = [0.0, 0.5, 3.0], [1.0 0.5 -1.0; 0.3 2.0 1.0]
    exact = exact_linear(A, u0, times, cotangents)
    both = solve_both(linear_field(A), u0, times, cotangents; method, adjoint = :quadrature, tol = 1.0e-9)
    @test both.code == ReturnCode.Success
    @test relative(both.y, exact.y) < 1.0e-6
    @test relative(both.y_bar, exact.y_bar) < 1.0e-5
    @test relative(both.params_bar, exact.params_bar) < 1.0e-4
end

@testset "auto changes over where it is stiff, and counts the steps of both" begin
    stiff = solve_ahead(linear_field([-1.0e4 9.999e3; 0.5 -1.0]), [2.0, 1.0], [0.0, 3.0]; method = "auto")
    explicit = solve_ahead(linear_field([-1.0e4 9.999e3; 0.5 -1.0]), [2.0, 1.0], [0.0, 3.0]; method = "Tsit5")
    @test 10 < stiff.tally.accepted < explicit.tally.accepted / 10
    mild = solve_ahead(linear_field([-1.0 2.0; 1.0 -2.0]), [2.0, 1.0], [0.0, 3.0]; method = "auto")
    @test mild.tally.nvjp == 0 # no Jacobian was asked for
end

@testset "steps of methods that ask no controller are counted" begin
    done = solve_ahead(linear_field([-1000.0 999.0; 0.5 -1.0]), [2.0, 1.0], [0.0, 3.0]; method = "FBDF")
    @test done.code == ReturnCode.Success && 10 < done.tally.accepted < 2000
end

@testset "implicit methods are given the Jacobian, others are not" begin
    A = [-1.0 2.0; 1.0 -2.0]
    field = linear_field(A)
    f = PySemi.ode_function(field, algorithm("Rodas5P"))
    J = zeros(2, 2)
    f.jac(J, [1.0, 2.0], nothing, 0.0)
    @test J == A
    @test PySemi.ode_function(field, algorithm("Tsit5")).jac === nothing
    # Nor is a tape of f alone, which has no products to make it of.
    alone = Field(PySemi.read_tape(header() * "\nprogram field\n%5[1] = pointwise %2[1] :: -x1\n"))
    @test PySemi.ode_function(alone, algorithm("Rodas5P")).jac === nothing
    done = solve_ahead(alone, [1.0], [0.0, 1.0]; method = "Rodas5P")
    @test done.y[end] ≈ exp(-1) rtol = 1.0e-6
    # Differences would take evaluations of f, not products.
    done = solve_ahead(linear_field(A), [1.0, 0.0], [0.0, 1.0]; method = "Rodas5P")
    @test done.code == ReturnCode.Success && done.tally.nvjp >= 2 * done.tally.accepted
end

@testset "an algorithm is found by its name, or refused" begin
    @test nameof(typeof(algorithm("Vern9"))) === :Vern9
    @test nameof(typeof(algorithm("TRBDF2"))) === :TRBDF2
    @test_throws PySemi.UnknownAlgorithm algorithm("NoSuchMethod")
    @test_throws PySemi.UnknownAlgorithm algorithm("solve")
end

@testset "a single time is no solve" begin
    for adjoint in ADJOINTS
        both = solve_both(growth_field([0.5, 2.0]), [1.0, 2.0], [0.7], [3.0; 4.0;;]; adjoint)
        @test both.y == [1.0; 2.0;;] && both.y_bar == [3.0, 4.0] && both.params_bar == [0.0, 0.0]
        @test both.code == ReturnCode.Success && both.forward.nf == 0
    end
end

@testset "a tolerance for each element" begin
    # The second state may be wrong, and its rate decides the steps otherwise.
    field = growth_field([-1.0, -50.0])
    prepared() = prepare!(
        field; recording = false, stop = Ptr{PySemi.Stop}(C_NULL), from = 0.0, direction = 1,
        jumps = Float64[], wants_params = false
    )
    function steps(atol)
        prepared()
        settings = Settings(atol, 1.0e-8, ComponentNorm([1:2]), 10_000, Controls(), Float64[], Float64[])
        solve_forward!(zeros(2, 2), field, [1.0, 1.0], [0.0, 0.1], algorithm("Tsit5"), settings)
        return field.tally.accepted
    end
    @test steps([1.0e-8, 1.0e3]) < steps([1.0e-8, 1.0e-8]) / 2
end

@testset "the step budget ends a solve, $(torchdiffeq ? "torchdiffeq's" : "default") control" for torchdiffeq in (false, true)
    controls = Controls(; torchdiffeq)
    field = linear_field(SPIRAL)
    short = solve_ahead(field, ones(3), [0.0, 10.0]; method = "DP5", controls, maxiters = 5)
    @test short.code == ReturnCode.MaxIters
    @test 4 <= short.tally.accepted + short.tally.rejected <= 6
    @test 0 < short.tally.reached < 10
    for adjoint in (torchdiffeq ? (:backsolve,) : ADJOINTS)
        enough = solve_both(field, ones(3), [0.0, 10.0], ones(3, 2); method = "DP5", controls, adjoint)
        @test enough.code == ReturnCode.Success
        prepare!(
            field; recording = true, stop = Ptr{PySemi.Stop}(C_NULL), from = 10.0, direction = -1,
            jumps = Float64[], wants_params = true
        )
        settings = Settings(
            1.0e-8, 1.0e-8, ComponentNorm([1:3]), 5, controls, Float64[], Float64[]
        )
        code = solve_backward!(
            zeros(3), zeros(9), field, enough.solved, algorithm("DP5"), adjoint, ones(3, 2), settings
        )
        @test code == ReturnCode.MaxIters
    end
end

@testset "a solution that blows up is reported, $(torchdiffeq ? "torchdiffeq's" : "default") control" for torchdiffeq in (false, true)
    field = programmed(m -> m.dy .= m.y .^ 2, _ -> nothing, [1.0], Float64[])
    blown = solve_ahead(
        field, [1.0], [0.0, 2.0]; method = "DP5", controls = Controls(; torchdiffeq), maxiters = 100_000
    )
    @test PySemi.status_of(blown.code) in (PySemi.NON_FINITE, PySemi.UNDERFLOW)
    @test 0.9 < blown.tally.t <= 1.1
end

@testset "NaN in f is reported, $(torchdiffeq ? "torchdiffeq's" : "default") control" for torchdiffeq in (false, true)
    field = time_field(t -> t > 0.5 ? oftype(t, NaN) : one(t), [1.0])
    broken = solve_ahead(
        field, [0.0], [0.0, 1.0]; method = "DP5", controls = Controls(; torchdiffeq), maxiters = 100_000
    )
    @test PySemi.status_of(broken.code) in (PySemi.NON_FINITE, PySemi.UNDERFLOW)
end

"Whether the steps follow one another from `from` to `to`."
function tiled(tally, from, to)
    starts = tally.step_times
    ends = starts .+ sign(to - from) .* tally.step_sizes
    return isapprox(first(starts), from; atol = 1.0e-12) && isapprox(last(ends), to; atol = 1.0e-12) &&
        all(isapprox.(ends[1:(end - 1)], starts[2:end]; atol = 1.0e-12))
end

@testset "the statistics of a solve tell all of it, $adjoint" for adjoint in ADJOINTS, times in ([0.0, 0.7, 3.0], [3.0, 0.7, 0.0])
    wiggle(t) = sin(8 * t^2)
    both = solve_both(
        time_field(wiggle, [1.0]), [0.0], times, ones(1, 3); adjoint, method = "DP5", parameter_parts = true
    )
    for (tally, from, to) in ((both.forward, times[1], times[end]), (both.backward, times[end], times[1]))
        @test tally.accepted == length(tally.step_times) == length(tally.step_sizes)
        @test tally.rejected == length(tally.rejected_times)
        @test tally.nf == length(tally.evaluation_times)
        @test tiled(tally, from, to)
        @test tally.reached == to
        @test all(t -> min(from, to) <= t <= max(from, to), tally.rejected_times)
    end
    @test both.forward.rejected > 0
    # Six new stages an attempt, and what finding the first step takes.
    attempts = both.forward.accepted + both.forward.rejected
    @test 6 * attempts <= both.forward.nf <= 6 * attempts + 4
    @test both.forward.nvjp == 0 && both.backward.nvjp > 0
end

@testset "steps end where they are told to" begin
    solved = solve_ahead(growth_field([0.5]), [1.0], [0.0, 1.0]; steps = [0.25, 0.5], tol = 1.0e-3)
    @test issubset([0.25, 0.5], solved.tally.step_times)
end

@testset "backsolve steps end at the observations, and nowhere else" begin
    times = [0.0, 0.3, 0.6, 2.0]
    both = solve_both(growth_field([0.5]), [1.0], times, ones(1, 4); tol = 1.0e-4)
    @test issubset([0.3, 0.6], both.backward.step_times)
    @test length(both.solved.solution.t) == 4
end

@testset "the first step is the one that is given" begin
    for torchdiffeq in (false, true)
        controls = Controls(; torchdiffeq, first_step = 0.01)
        solved = solve_ahead(growth_field([0.5]), [1.0], [1.0, 0.0]; method = "DP5", controls, tol = 1.0e-4)
        @test solved.tally.step_sizes[1] ≈ 0.01
    end
end
