const TORCHDIFFEQ = Controls(; torchdiffeq = true)

@testset "$method interpolates to the tolerance, $T" for (T, tol) in ((Float64, 1.0e-9), (Float32, 1.0e-5)), method in ("DP5", "BS3")
    A, u0 = T.([0 1; -1 0]), T[1, 0]
    for times in (collect(range(0, 6; length = 500)), collect(range(6, 0; length = 500)))
        solved = solve_ahead(linear_field(A), u0, times; method, tol, controls = TORCHDIFFEQ)
        s = times .- times[1]
        error = maximum(abs, solved.y - [cos.(s) -sin.(s)]')
        # BS3's cubic is interpolated at lower order between its steps.
        @test error < (method == "DP5" ? 100 : 3000) * tol
        @test length(solved.tally.step_times) < 500 || method == "BS3"
    end
end

@testset "gradients are exact to the tolerance, $adjoint" for adjoint in (:backsolve, :interpolating, :gauss, :quadrature)
    A, u0 = [-0.1 2.0; -2.0 -0.1], [1.0, 0.5]
    for method in ("DP5", "BS3"), times in ([0.0, 0.3, 1.0, 2.0], [1.0, 0.5, -1.0])
        cotangents = randn(2, length(times))
        # The forward solve has torchdiffeq's control; the last time lies within a step.
        both = solve_both(
            linear_field(A), u0, times, cotangents; method, adjoint, tol = 1.0e-9, controls = TORCHDIFFEQ
        )
        exact = exact_linear(A, u0, times, cotangents)
        @test both.code == PySemi.ReturnCode.Success
        bound = method == "DP5" ? 1.0e-7 : 1.0e-5
        @test relative(both.y, exact.y) < bound
        @test relative(both.y_bar, exact.y_bar) < bound
        @test relative(both.params_bar, exact.params_bar) < bound
    end
end

"Pairs of an accepted step's length and the next one's, where no rejection lies between."
function undisturbed(tally)
    starts, sizes = tally.step_times, tally.step_sizes
    return [
        (sizes[i], sizes[i + 1]) for i in 1:(length(sizes) - 1) if !(starts[i + 1] in tally.rejected_times)
    ]
end

@testset "a step is not shorter than the accepted one before it" begin
    wiggle(t) = sin(8 * t^2)
    options = (; method = "DP5", tol = 1.0e-6)
    times = [0.0, 3.0]
    theirs = solve_ahead(time_field(wiggle, [1.0]), [0.0], times; options..., controls = TORCHDIFFEQ)
    ours = solve_ahead(time_field(wiggle, [1.0]), [0.0], times; options...)
    shrinks(tally) = any(((a, b),) -> b < a * (1 - 1.0e-9), undisturbed(tally))
    @test !shrinks(theirs.tally) && shrinks(ours.tally)
    @test all(((a, b),) -> b <= 10 * a * (1 + 1.0e-9), undisturbed(theirs.tally))
    @test theirs.tally.rejected > 0
end

@testset "a rejected step is shortened by no more than dfactor" begin
    controls = Controls(; torchdiffeq = true, first_step = 1.0, dfactor = 0.5)
    peak(t) = 1 / (1.0e-4 + (t - 0.4)^2)
    solved = solve_ahead(time_field(peak, [1.0]), [0.0], [0.0, 1.0]; method = "DP5", controls)
    @test solved.tally.rejected_times[1:3] == zeros(3)
    # As often as it was rejected at the start, it was halved.
    @test solved.tally.step_sizes[1] ≈ 0.5^count(iszero, solved.tally.rejected_times) rtol = 0.5
end

@testset "steps go past the last time and are interpolated" begin
    solved = solve_ahead(growth_field([0.5]), [1.0], [0.0, 1.0]; method = "DP5", controls = TORCHDIFFEQ)
    @test solved.tally.reached > 1.0
    @test solved.y[1, 2] ≈ exp(0.5) rtol = 1.0e-7
    @test solved.tally.accepted == length(solved.tally.step_times)
end

@testset "the backward solve starts anew at each observation" begin
    times = [0.0, 0.3, 1.0, 4.0]
    both = solve_both(
        growth_field([0.5]), [1.0], times, ones(1, 4); method = "DP5", controls = TORCHDIFFEQ
    )
    @test issubset([4.0, 1.0, 0.3], both.backward.step_times)
    first_of(t) = both.backward.step_sizes[findfirst(==(t), both.backward.step_times)]
    # A first step is chosen as if nothing were known: it is short.
    @test all(t -> first_of(t) < 0.1, [4.0, 1.0, 0.3])
end

@testset "no step crosses a jump" begin
    jumps = [0.25, 0.5]
    for times in ([0.0, 1.0], [1.0, 0.0])
        direction = sign(times[2] - times[1])
        for controls in (TORCHDIFFEQ, Controls())
            solved = solve_ahead(
                growth_field([0.5]), [1.0], times; method = "DP5", controls, jumps, tol = 1.0e-3
            )
            for (from, size) in zip(solved.tally.step_times, solved.tally.step_sizes)
                low, high = minmax(from, from + direction * size)
                @test !any(j -> low + 1.0e-12 < j < high - 1.0e-12, jumps)
            end
        end
    end
end

@testset "a method that torchdiffeq has not is refused" begin
    @test_throws ArgumentError solve_ahead(
        growth_field([0.5]), [1.0], [0.0, 1.0]; method = "Tsit5", controls = TORCHDIFFEQ
    )
end
