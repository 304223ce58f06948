using PySemi: CBackward, CForward, CReport, CSettings, entry_points

const ENTRY = entry_points()
address(name) = Ptr{Cvoid}(ENTRY[name])

c_build(text, number, addresses, kept = Ref{Int64}(-1)) = ccall(
    address("build"), Int32, (Ptr{UInt8}, Int64, Ptr{Int64}, Ptr{Ptr{Cvoid}}, Ptr{Int64}),
    text, sizeof(text), number, addresses, kept
)
c_evaluate(number, level) = ccall(address("evaluate"), Int32, (Int64, Int64), number, level)
c_times(number, evaluations, steps, sizes, rejections) = ccall(
    address("times"), Int32, (Int64, Ptr{Float64}, Ptr{Float64}, Ptr{Float64}, Ptr{Float64}),
    number, evaluations, steps, sizes, rejections
)
c_release(number) = ccall(address("release"), Int32, (Int64,), number)
c_forward(requests, reports, fields) = ccall(
    address("forward"), Int32, (Ptr{CForward}, Ptr{CReport}, Int64, Ptr{Int64}, Int64),
    requests, reports, length(requests), fields, length(fields)
)
c_backward(requests, reports, fields) = ccall(
    address("backward"), Int32, (Ptr{CBackward}, Ptr{CReport}, Int64, Ptr{Int64}, Int64),
    requests, reports, length(requests), fields, length(fields)
)
function c_message()
    bytes = zeros(UInt8, 400)
    n = ccall(address("message"), Int32, (Ptr{UInt8}, Int64), bytes, length(bytes))
    return String(bytes[1:n])
end

"Build the perceptron's tape; its number and its first seven buffers as arrays."
function built(::Type{T}) where {T}
    number, addresses = Ref{Int64}(0), fill(C_NULL, 13)
    status = c_build(PySemi.perceptron_tape(T, 4), number, addresses)
    sizes = (1, 8, 8, 15, 8, 8, 15)
    arrays = map((p, n) -> unsafe_wrap(Array, Ptr{T}(p), n), Tuple(addresses[1:7]), sizes)
    return status, number[], arrays
end

# Settings whose arrays stay alive as long as the second result.
function c_settings(; method = "Tsit5", tol = 1.0e-6, components = [1, 8], maxiters = 1000)
    name = method * "\0"
    kept = (name, [tol], components)
    settings = CSettings(
        pointer(name), pointer(kept[2]), 1, pointer(kept[2]), 1, pointer(components),
        length(components) ÷ 2, C_NULL, 0, C_NULL, maxiters, 0, 0.0, 0.9, 10.0, 0.2,
        C_NULL, 0, C_NULL, 0
    )
    return settings, kept
end

function c_solve(
        number, u0::Vector{T}, times; stop = Ptr{PySemi.Stop}(C_NULL), keep = 1, event = C_NULL,
        event_field = 0, options...
    ) where {T}
    settings, kept = c_settings(; options...)
    y = zeros(T, length(u0), length(times))
    reports = Vector{CReport}(undef, 1)
    GC.@preserve kept times u0 y begin
        requests = [
            CForward(
                settings, pointer(times), length(times), pointer(u0), pointer(y), keep, 100, 1, stop,
                event, event_field
            ),
        ]
        status = c_forward(requests, reports, [number])
    end
    return status, reports[1], y
end

@testset "the structs have the sizes that Python is told" begin
    for S in (CForward, CBackward, CReport)
        @test ENTRY["sizeof $(nameof(S))"] == sizeof(S)
    end
    @test ENTRY["sizeof CStop"] == sizeof(PySemi.Stop)
    names = ("message", "build", "foreign", "evaluate", "release", "times", "forward", "backward", "interpolate")
    @test all(name -> ENTRY[name] > 0, names)
end

@testset "build, evaluate, solve, read the times, release: $T" for T in (Float32, Float64)
    status, number, (t, y, cotangent, params, dy, y_bar, params_bar) = built(T)
    @test status == 0 && number > 0
    params .= randn(T, 15)
    y .= randn(T, 8)
    cotangent .= randn(T, 8)
    @test c_evaluate(number, 1) == 0 && any(!iszero, dy) && all(iszero, params_bar)
    @test c_evaluate(number, 3) == 0 && any(!iszero, params_bar)
    whole = map(copy, (dy, y_bar, params_bar))
    foreach(x -> fill!(x, NaN), (dy, y_bar, params_bar))
    @test c_evaluate(number, 4) == 0
    @test all(map(isapprox, (dy, y_bar, params_bar), whole))
    @test c_evaluate(number, 5) == Int32(PySemi.FAILED)

    twin = Field(PySemi.read_tape(PySemi.perceptron_tape(T, 4)))
    twin.memory.params .= params
    u0, times, cotangents = randn(T, 8), [0.0, 0.5, 1.0], randn(T, 8, 3)
    expected = solve_both(twin, u0, times, cotangents; tol = 1.0e-6)

    status, report, states = c_solve(number, u0, times)
    @test status == 0 && report.status == 0 && report.solution > 0
    @test states == expected.y
    @test (report.nf, report.accepted, report.rejected) ==
        (expected.forward.nf, expected.forward.accepted, expected.forward.rejected)

    settings, kept = c_settings(; components = [1, 8, 24, 31])
    gradients = (zeros(T, 8), zeros(T, 15))
    reports = Vector{CReport}(undef, 1)
    GC.@preserve kept cotangents gradients begin
        requests = [
            CBackward(
                report.solution, settings, 0, C_NULL, 0, pointer(cotangents), pointer(gradients[1]),
                pointer(gradients[2]), 1, C_NULL
            ),
        ]
        @test c_backward(requests, reports, [number]) == 0
    end
    r = only(reports)
    @test r.status == 0 && 0 < r.seconds < 60
    @test gradients == (expected.y_bar, expected.params_bar)

    lists = map(n -> zeros(n), (r.evaluations, r.steps, r.steps, r.rejections))
    @test c_times(r.times, lists...) == 0
    @test c_times(r.times, lists...) == Int32(PySemi.FAILED) # they are gone
    tally = expected.backward
    @test lists == (tally.evaluation_times, tally.step_times, tally.step_sizes, tally.rejected_times)

    held = length(PySemi.HELD)
    @test c_release(report.solution) == 0 && c_release(number) == 0
    @test length(PySemi.HELD) == held - 2
end

@testset "what was written of kernels is said, with its name" begin
    number, addresses, kept = Ref{Int64}(0), fill(C_NULL, 7), Ref{Int64}(-1)
    text = kept_tape("tanh(x1) - 3.0 * x2")
    @test c_build(text, number, addresses, kept) == 0 && kept[] == 0 # nothing is kept
    c_release(number[])
    with_folder(; after = 1.0e6) do folder, _
        @test c_build(text, number, addresses, kept) == 0 && kept[] == 0 # it did not take that long
        c_release(number[])
        @test !ispath(folder)
    end
    with_folder() do folder, _
        @test c_build(text, number, addresses, kept) == 0 && kept[] == 1
        c_release(number[])
        @test isfile(joinpath(folder, c_message(), "Project.toml"))
    end
end

@testset "what goes wrong has a status and a message" begin
    number, addresses = Ref{Int64}(0), fill(C_NULL, 13)
    @test c_build("buffer 1 t Float16 1\n", number, addresses) == Int32(PySemi.FAILED)
    @test occursin("no element type Float16", c_message())
    @test c_evaluate(-5, 1) == Int32(PySemi.FAILED)

    _, number, (_, _, _, params) = built(Float64)
    params .= randn(15)
    u0, times = randn(8), [0.0, 1.0]
    function status(; options...)
        ended, report, _ = c_solve(number, u0, times; options...)
        return ended == 0 ? report.status : ended
    end
    @test status() == Int32(PySemi.SUCCESS)
    # From a package that nothing has loaded yet.
    @test status(; method = "TanYam7") == Int32(PySemi.SUCCESS)
    @test status(; method = "NoSuch") == Int32(PySemi.UNKNOWN_ALGORITHM)
    @test status(; maxiters = 2) == Int32(PySemi.EXHAUSTED)
    flag = Ref(PySemi.Stop(1, 0, C_NULL, C_NULL, C_NULL))
    GC.@preserve flag begin
        @test status(; stop = Base.unsafe_convert(Ptr{PySemi.Stop}, flag)) == Int32(PySemi.STOPPED)
    end
    params .= NaN
    @test status() in (Int32(PySemi.NON_FINITE), Int32(PySemi.UNDERFLOW))
    c_release(number)
end

@testset "a message is cut to the room there is" begin
    PySemi.MESSAGE[] = "longer than that"
    bytes = fill(0xff, 7)
    @test ccall(address("message"), Int32, (Ptr{UInt8}, Int64), bytes, 7) == 6
    @test String(bytes[1:6]) == "longer" && bytes[7] == 0
end

@testset "a foreign field's exception is Python's affair" begin
    number, addresses = Ref{Int64}(0), fill(C_NULL, 7)
    raising = @cfunction((level, t) -> Int32(1), Int32, (Int32, Float64))
    @test 0 == ccall(
        address("foreign"), Int32, (Int64, Int64, Int64, Ptr{Cvoid}, Ptr{Int64}, Ptr{Ptr{Cvoid}}),
        1, 2, 3, raising, number, addresses
    )
    @test all(!=(C_NULL), addresses)
    @test c_evaluate(number[], 1) == Int32(PySemi.FOREIGN)
    @test c_solve(number[], [1.0, 2.0], [0.0, 1.0]; components = [1, 2])[2].status == Int32(PySemi.FOREIGN)
    c_release(number[])
end

@testset "an event of a tape and one of Python's end a solve alike: $T" for T in (Float32, Float64)
    _, number, (_, _, _, params) = built(T)
    params .= T.(range(-1, 1; length = 15))
    u0, times = T.(range(-1, 1; length = 8)), [0.0, 1.0]
    tape_number, addresses = Ref{Int64}(0), fill(C_NULL, 7)
    @test c_build(PySemi.event_tape(T, 8), tape_number, addresses) == 0
    threshold = unsafe_wrap(Array, Ptr{T}(addresses[4]), 1)
    threshold[1] = -0.25 # tanh(t - 1/4)
    status, report, y = c_solve(number, u0, times; event_field = tape_number[])
    @test status == 0 && report.status == Int32(PySemi.SUCCESS)
    @test report.event_time ≈ 0.25 atol = eps(T)
    # Negative at the start, so its sign is turned, as Python turns it.
    foreign = @cfunction((t, y) -> tanh(0.25 - t), Cdouble, (Cdouble, Ptr{Cvoid}))
    _, other, z = c_solve(number, u0, times; event = foreign)
    @test other.event_time ≈ report.event_time atol = eps(T)
    @test z ≈ y rtol = 4eps(T)
    @test (report.nf, report.accepted) == (other.nf, other.accepted)
    foreach(c_release, (number, tape_number[]))
end

@testset "an event that is NaN has a status and a time" begin
    _, number, (_, _, _, params) = built(Float64)
    params .= range(-1, 1; length = 15)
    tape_number, addresses = Ref{Int64}(0), fill(C_NULL, 7)
    c_build(PySemi.event_tape(Float64, 8), tape_number, addresses)
    unsafe_wrap(Array, Ptr{Float64}(addresses[4]), 1)[1] = NaN
    _, report, _ = c_solve(number, zeros(8), [2.0, 3.0]; event_field = tape_number[])
    @test report.status == Int32(PySemi.EVENT_IS_NAN) && report.event_time == 2
    foreign = @cfunction((t, y) -> t < 2.5 ? 1.0 : NaN, Cdouble, (Cdouble, Ptr{Cvoid}))
    _, report, _ = c_solve(number, zeros(8), [2.0, 3.0]; event = foreign)
    @test report.status == Int32(PySemi.EVENT_IS_NAN) && report.event_time >= 2.5
    foreach(c_release, (number, tape_number[]))
end

"What a backward solve of a solution made by `c_solve` leaves: its report, and the gradients."
function c_pull_back(
        solution, number, cotangents::Matrix{T}; adjoint, m = 15, params_bar = zeros(T, m)
    ) where {T}
    n = size(cotangents, 1)
    settings, kept = c_settings(; components = adjoint == 0 ? [1, n, n + m + 1, 2n + m] : [1, n])
    y_bar = zeros(T, n)
    reports = Vector{CReport}(undef, 1)
    GC.@preserve kept cotangents y_bar params_bar begin
        request = CBackward(
            solution, settings, adjoint, C_NULL, 0, pointer(cotangents), pointer(y_bar), pointer(params_bar), 0,
            C_NULL
        )
        @test c_backward([request], reports, [number]) == 0
    end
    return only(reports), y_bar, params_bar
end

@testset "a cotangent that is not finite is not solved for: $T, adjoint $adjoint" for
    T in (Float32, Float64), adjoint in (0, 1, 2, 3, 4)

    _, number, (_, _, _, params) = built(T)
    params .= T.(range(-1, 1; length = 15))
    u0, times = T.(range(-1, 1; length = 8)), [0.0, 0.5, 1.0]
    _, report, y = c_solve(number, u0, times; keep = 1 + (adjoint == 0 ? 0 : adjoint == 2 ? 2 : 1))
    @test report.status == Int32(PySemi.SUCCESS) && all(isfinite, y)
    pull(cotangents) = c_pull_back(report.solution, number, cotangents; adjoint)
    ended, y_bar, params_bar = pull(ones(T, 8, 3))
    @test ended.status == Int32(PySemi.SUCCESS) && all(isfinite, [y_bar; params_bar])
    for bad in (NaN, Inf, -Inf), place in (1, 8, 13, 24)
        cotangents = ones(T, 8, 3)
        cotangents[place] = bad
        ended, y_bar, params_bar = pull(cotangents)
        @test ended.status == Int32(PySemi.COTANGENT_NOT_FINITE) && ended.nvjp == 0
        @test all(isnan, y_bar) && all(isnan, params_bar)
    end
    # Nothing stays behind.
    ended, y_bar, params_bar = pull(ones(T, 8, 3))
    @test ended.status == Int32(PySemi.SUCCESS) && all(isfinite, [y_bar; params_bar])
    # Each is finite, their sum is not.
    if adjoint == 2
        ended, y_bar, _ = pull(fill(floatmax(T), 8, 3))
        @test ended.status == Int32(PySemi.RESULT_NOT_FINITE) && !all(isfinite, y_bar)
    end
    foreach(c_release, (report.solution, number))
end

@testset "the parameters' gradient may be left in the field's own memory: adjoint $adjoint" for adjoint in 0:4
    _, number, (_, _, _, params, _, _, own) = built(Float64)
    params .= range(-1, 1; length = 15)
    u0, times = collect(range(-1, 1; length = 8)), [0.0, 0.5, 1.0]
    _, report, _ = c_solve(number, u0, times; keep = 1 + (adjoint == 0 ? 0 : adjoint == 2 ? 2 : 1))
    _, y_bar, params_bar = c_pull_back(report.solution, number, ones(8, 3); adjoint)
    @test any(!iszero, params_bar)
    ended, again, _ = c_pull_back(report.solution, number, ones(8, 3); adjoint, params_bar = own)
    @test ended.status == Int32(PySemi.SUCCESS) && again == y_bar && own == params_bar
    ended, _, _ = c_pull_back(report.solution, number, fill(NaN, 8, 3); adjoint, params_bar = own)
    @test ended.status == Int32(PySemi.COTANGENT_NOT_FINITE) && all(isnan, own)
    foreach(c_release, (report.solution, number))
end

@testset "a state that is not finite at an observation has a status: $T, keep $keep" for
    T in (Float32, Float64), keep in (0, 1, 2, 3)

    number, addresses = Ref{Int64}(0), fill(C_NULL, 7)
    sizes = ("t" => 1, "y" => 2, "cotangent" => 2, "params" => 1, "dy" => 2, "y_bar" => 2, "params_bar" => 1)
    buffers = ("buffer $i $role $T $size" for (i, (role, size)) in enumerate(sizes))
    # The second state's slope is NaN at t = 1, where the norm does not see it.
    tape = join((buffers..., "program field"), "\n") * """

    %5[1] = pointwise %1[1] :: $T(1.0)
    %5[1|1|1] = pointwise %1[1] :: v1 = $T(1.0) - x1; v1 / v1
    """
    @test c_build(tape, number, addresses) == 0
    solved_to(times...; y0 = T[0, 0]) = c_solve(number[], y0, collect(times); components = [1, 1], keep)
    for (times, finite) in (((0.0, 0.3, 0.9), true), ((0.0, 0.3, 1.0), false))
        _, report, y = solved_to(times...)
        @test report.status == Int32(finite ? PySemi.SUCCESS : PySemi.RESULT_NOT_FINITE)
        @test all(isfinite, y) == finite && all(isfinite, y[:, 1:2])
        @test (report.solution > 0) == (keep > 0)
        keep > 0 && @test c_release(report.solution) == 0
    end
    _, report, _ = solved_to(0.0; y0 = T[NaN, 0])
    @test report.status == Int32(PySemi.RESULT_NOT_FINITE)
    keep > 0 && c_release(report.solution)
    c_release(number[])
end

"""
Solve and differentiate a perceptron from each column of `u0`, to its own column of `times`, with so
many fields. A column of `u0` that is NaN fails.
"""
function c_batch(
        ::Type{T}, u0, times, workers; adjoint = 0, cotangents = ones(T, 8, size(times, 1), size(u0, 2))
    ) where {T}
    fields = map(1:workers) do _
        _, number, (_, _, _, params) = built(T)
        params .= T.(range(-1, 1; length = 15))
        number
    end
    b, k = size(u0, 2), size(times, 1)
    settings, kept = c_settings()
    augmented, kept_too = c_settings(; components = adjoint == 0 ? [1, 8, 24, 31] : [1, 8])
    y, y_bar, params_bar = zeros(T, 8, k, b), zeros(T, 8, b), zeros(T, 15)
    reports = Vector{CReport}(undef, 2b)
    GC.@preserve kept kept_too u0 times y cotangents y_bar params_bar begin
        column(x, i) = pointer(selectdim(x, ndims(x), i))
        forward = map(1:b) do i
            CForward(
                settings, column(times, i), k, column(u0, i), column(y, i), adjoint == 2 ? 3 : 1, 100, 0,
                C_NULL, C_NULL, 0
            )
        end
        foreach(i -> reports[i] = reports_nothing(), eachindex(reports))
        @test c_forward(forward, reports, fields) == 0
        if all(report -> report.status == 0, reports)
            backward = map(1:b) do i
                CBackward(
                    reports[i].solution, augmented, adjoint, C_NULL, 0, column(cotangents, i), column(y_bar, i),
                    pointer(params_bar), 0, C_NULL
                )
            end
            @test c_backward(backward, view(reports, (b + 1):2b), fields) == 0
        end
    end
    foreach(c_release, fields)
    return reports, y, y_bar, params_bar
end
reports_nothing() = CReport(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

@testset "several problems are solved as each would be, on any number of fields: $T, $adjoint" for
    T in (Float32, Float64), adjoint in (0, 2)

    b = 7
    u0 = randn(T, 8, b)
    times = [range(0, 1 + i / b; length = 3)[j] for j in 1:3, i in 1:b]
    alone = [c_batch(T, u0[:, i:i], times[:, i:i], 1; adjoint) for i in 1:b]
    for workers in (1, 2, 3)
        reports, y, y_bar, params_bar = c_batch(T, u0, times, workers; adjoint)
        for i in 1:b
            @test y[:, :, i] == alone[i][2][:, :, 1] && y_bar[:, i] == alone[i][3][:, 1]
            counts(r) = (r.nf, r.nvjp, r.accepted, r.rejected)
            @test counts(reports[i]) == counts(alone[i][1][1])
            @test counts(reports[b + i]) == counts(alone[i][1][2])
        end
        @test params_bar ≈ sum(x -> x[4], alone)
        # In the same order each time.
        @test params_bar == c_batch(T, u0, times, workers; adjoint)[4]
    end
end

@testset "of a batch, one cotangent that is not finite makes the parameters' gradient NaN" for workers in (1, 2)
    u0, times = randn(8, 4), repeat([0.0, 1.0], 1, 4)
    cotangents = ones(8, 2, 4)
    cotangents[3, 2, 2] = Inf
    reports, _, y_bar, params_bar = c_batch(Float64, u0, times, workers; adjoint = 2, cotangents)
    @test reports[4 + 2].status == Int32(PySemi.COTANGENT_NOT_FINITE)
    @test all(isnan, y_bar[:, 2]) && all(isnan, params_bar)
    @test reports[4 + 1].status == Int32(PySemi.SUCCESS) && all(isfinite, y_bar[:, 1])
end

@testset "the threads are BLAS's again after a batch, also after one that failed" begin
    u0, times = randn(8, 5), repeat([0.0, 1.0], 1, 5)
    u0[1, 3] = NaN
    before = BLAS.get_num_threads()
    reports, _, _, _ = c_batch(Float64, u0, times, 2)
    @test reports[3].status != 0
    @test all(i -> reports[i].status == 0, (1, 2, 4))
    @test reports[5].solution == 0 # the failed one's worker would have come to it
    @test BLAS.get_num_threads() == before
end
