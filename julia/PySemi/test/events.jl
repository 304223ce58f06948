using PySemi: EventIsNaN, TapeEvent

"Solve until `event(u, t)` changes sign; the states, the time, the return code and the tally."
function solve_to(event, field, u0, t0, direction; method = "Tsit5", maxiters = 1000, jumps = Float64[])
    prepare!(
        field; recording = true, stop = Ptr{PySemi.Stop}(C_NULL), from = t0, direction, jumps,
        wants_params = false
    )
    out = zeros(length(u0), 2)
    settings = Settings(
        1.0e-9, 1.0e-9, ComponentNorm([1:length(u0)]), maxiters, Controls(), jumps, Float64[]
    )
    solved = PySemi.solve_until!(event, out, field, u0, t0, direction, algorithm(method), settings)
    return (; out, t = solved.times[end], solved, field.tally)
end

@testset "$method finds the event, direction $direction" for method in ("DP5", "Tsit5", "Vern7"), direction in (1, -1)
    # y = e^{t/2} passes 2 at t = 2 log 2, and 1/2 at t = -2 log 2.
    target = direction > 0 ? 2.0 : 0.5
    found = solve_to((u, t) -> u[1] - target, growth_field([0.5]), [1.0], 0.0, direction; method)
    @test found.solved.code == PySemi.ReturnCode.Success
    @test found.t ≈ direction * 2log(2) rtol = 1.0e-7
    @test found.out ≈ [1.0 target] rtol = 1.0e-7
end

@testset "an event at the start ends there" begin
    found = solve_to((u, t) -> u[1] - 1, growth_field([0.5]), [1.0], 3.0, 1)
    @test found.t == 3.0 && found.out == [1.0 1.0] && found.tally.nf == 0
end

@testset "an event that does not come uses up the steps" begin
    wave = linear_field([0.0 1.0; -1.0 0.0])
    found = solve_to((u, t) -> u[1] + 5, wave, [1.0, 0.0], 0.0, 1; maxiters = 50)
    @test found.solved.code == PySemi.ReturnCode.MaxIters
end

@testset "a jump before the event counts" begin
    field = time_field(t -> t < 0.3 ? 1.0 : 3.0, [1.0])
    found = solve_to((u, t) -> u[1] - 0.9, field, [0.0], 0.0, 1; jumps = [0.3])
    @test found.t ≈ 0.5 && found.tally.rejected == 0
end

"""
The values `y[i] - thresholds[i]`, or, for `expression`, what it makes of `x1` (the state's
first elements), `x2` (the thresholds) and `x3` (the time), as a field of their own.
"""
function event_field(::Type{T}, n, thresholds; expression = "x1 - x2") where {T}
    k = length(thresholds)
    sizes = ("t" => 1, "y" => n, "cotangent" => 1, "params" => 1, "dy" => k, "y_bar" => 1, "params_bar" => 1)
    buffers = ("buffer $i $role $T $size" for (i, (role, size)) in enumerate(sizes))
    tape = PySemi.read_tape(
        """
        $(join(buffers, "\n"))
        buffer 8 tensor $T $k
        program field
        %5[$k] = pointwise %2[$k|1|0] %8[$k] %1[$k|0|0] :: $expression
        """
    )
    copyto!(tape.buffers[8], thresholds)
    return Field(tape)
end

@testset "a tape's event is its values, each positive at the start, the smallest: $T" for T in (Float32, Float64)
    event = TapeEvent(event_field(T, 3, [1, 1]), T[3, -1, 9], 0.0)
    @test event.signs == [1, -1]
    @test event(T[2.5, -1, 9], 0.0) == 1.5
    @test event(T[2.5, 0.5, 9], 0.0) == 0.5
    @test event(T[2.5, 2, 9], 0.0) == -1
    @test event(view(T[2.5, 2, 9, 4], 2:4), 0.0) == -8
    @test event(T[1, 0, 0], 0.0) isa Float64
end

@testset "of several values the first to change sign ends the solve, direction $direction" for direction in (1, -1)
    # e^{t/2} passes 2 before 3; backward in time, 1/2 before 1/3.
    first, later = direction > 0 ? (2.0, 3.0) : (1 / 2, 1 / 3)
    event = TapeEvent(event_field(Float64, 1, [first]), [1.0], 0.0)
    both = TapeEvent(event_field(Float64, 2, [later, first]), [1.0, 1.0], 0.0)
    alone = solve_to(event, growth_field([0.5]), [1.0], 0.0, direction)
    found = solve_to(both, growth_field([0.5, 0.5]), [1.0, 1.0], 0.0, direction)
    @test alone.t ≈ direction * 2log(2) rtol = 1.0e-7
    @test found.t ≈ alone.t rtol = 1.0e-12
    @test alone.tally.nf == found.tally.nf # what the event costs is not counted
end

@testset "a tape's event may depend on time alone, which it sees as the state's type: $T" for T in (Float32, Float64)
    event = TapeEvent(event_field(T, 1, [0.7]; expression = "x3 - x2"), T[1], 0.0)
    @test event(T[5], 0.1) == abs(T(0.1) - T(0.7))
    found = solve_to(event, growth_field(T[0.5]), T[1], 0.0, 1)
    @test found.t ≈ 0.7 atol = eps(T)
end

@testset "a value that is 0 at the start ends the solve there" begin
    event = TapeEvent(event_field(Float64, 2, [1.0, -4.0]), [1.0, 1.0], 2.0)
    found = solve_to(event, growth_field([0.5, 0.5]), [1.0, 1.0], 2.0, 1)
    @test found.t == 2.0 && found.out == ones(2, 2) && found.tally.nf == 0
end

@testset "an event that is NaN says when" begin
    # sqrt(2 - e^{t/2}) is real until 2 log 2 ≈ 1.386.
    values = event_field(Float64, 2, [2.0, -9.0]; expression = "sqrt(x2 - x1)")
    dynamics = growth_field([0.5, 0.0])
    later = TapeEvent(values, [1.0, -10.0], 0.0)
    error = try
        solve_to(later, dynamics, [1.0, -10.0], 0.0, 1)
    catch caught
        caught
    end
    @test error isa EventIsNaN && error.t > 2log(2)
    @test occursin("NaN at t = $(error.t)", sprint(showerror, error))
    at_once = TapeEvent(values, [3.0, -10.0], 5.0)
    @test_throws EventIsNaN(5.0) solve_to(at_once, dynamics, [3.0, -10.0], 5.0, 1)
end

@testset "asking a tape's event allocates nothing: $T" for T in (Float32, Float64)
    u = rand(T, 50)
    event = TapeEvent(event_field(T, 50, rand(T, 50)), u, 0.0)
    @test allocated(() -> event(u, 0.5)) == 0
    part = view(rand(T, 60), 6:55)
    @test allocated(() -> event(part, 0.5)) == 0
end
