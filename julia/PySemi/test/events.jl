"Solve until `event(u, t)` changes sign; the states, the time, the return code and the tally."
function solve_to(event, field, u0, t0, direction; method = "Tsit5", maxiters = 1000, jumps = Float64[])
    prepare!(
        field; recording = true, stop = Ptr{Int32}(C_NULL), from = t0, direction, jumps,
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
