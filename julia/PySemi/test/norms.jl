using PySemi: ComponentNorm

rms(x) = sqrt(sum(abs2, x) / length(x))

@testset "a component norm of $T is the largest mean square of its parts" for T in (Float32, Float64)
    u = randn(T, 10)
    norm = ComponentNorm([1:3, 4:4, 8:10], T[])
    expected = maximum(rms, (u[1:3], u[4:4], u[8:10]))
    @test norm(u, 0.0) ≈ expected
    @test norm(u, 0.0) isa T
    @test norm(view(vcat(u, u), 11:20), 0.0) ≈ expected
    @test norm(Base.broadcasted(identity, u) |> collect, 0.0) ≈ expected
    u[5:7] .= 1.0e6
    @test norm(u, 0.0) ≈ expected # those are in no part
    @test norm(T(-3), 0.0) === T(3)
end

@testset "weights scale, and a weight of zero does not count" begin
    u = [1.0, 2.0, 3.0, 4.0]
    norm = ComponentNorm([1:2, 3:4], [1.0, 0.0, 2.0, 2.0])
    @test norm(u, 0.0) ≈ rms([6.0, 8.0])
    @test norm([5.0, 99.0, 0.0, 0.0], 0.0) ≈ 5.0
    @test ComponentNorm([1:2, 3:4], [0.0, 0.0, 1.0, 1.0])([9.0, 9.0, 1.0, 1.0], 0.0) ≈ 1.0
end

@testset "NaN is seen in every part" begin
    norm = ComponentNorm([1:2, 3:4])
    weighted = ComponentNorm([1:2, 3:4], ones(4))
    for i in 1:4
        u = [1.0, 2.0, 3.0, 4.0]
        u[i] = NaN
        @test isnan(norm(u, 0.0)) && isnan(weighted(u, 0.0))
    end
    @test isnan(norm(NaN, 0.0))
end

@testset "a norm allocates nothing" begin
    u = randn(Float32, 100)
    norm = ComponentNorm([1:50, 60:100], Float32[])
    @test allocated(() -> norm(u, 0.0)) == 0
    part = view(u, 1:100)
    @test allocated(() -> norm(part, 0.0)) == 0
end

# y and λ are constant, and a_θ' = -λ h(t) has a sharp peak: no error but a_θ's.
@testset "a step rejected for a_θ alone is accepted by the seminorm" begin
    peak(t) = 1 / (1.0e-4 + (t - 0.4)^2)
    field = time_field(peak, [0.0])
    u0, times, cotangents = [1.0], [0.0, 1.0], [0.0 1.0]
    default = solve_both(field, u0, times, cotangents; parameter_parts = true)
    seminorm = solve_both(field, u0, times, cotangents; parameter_parts = false)
    @test default.backward.rejected > 0
    @test seminorm.backward.rejected == 0
    @test seminorm.backward.accepted < default.backward.accepted / 4
    @test default.params_bar[1] ≈ 100 * (atan(60.0) + atan(40.0)) rtol = 1.0e-6
end

@testset "a foreign norm is asked for vectors, and may fail" begin
    sum_norm(p::Ptr{Float64}, n::Int64) = sum(abs, unsafe_wrap(Array, p, n))
    failing(::Ptr{Float64}, ::Int64) = -1.0
    sum_call = @cfunction($sum_norm, Cdouble, (Ptr{Float64}, Int64))
    failing_call = @cfunction($failing, Cdouble, (Ptr{Float64}, Int64))
    GC.@preserve sum_call failing_call begin
        norm = PySemi.ForeignNorm{Float64}(Base.unsafe_convert(Ptr{Cvoid}, sum_call), zeros(3))
        @test norm(view([1.0, -2.0, 3.0, 9.0], 1:3), 0.0) === 6.0
        @test norm(-2.0, 0.0) === 2.0
        bad = PySemi.ForeignNorm{Float64}(Base.unsafe_convert(Ptr{Cvoid}, failing_call), zeros(3))
        @test_throws PySemi.ForeignError bad([1.0, 2.0, 3.0], 0.0)
    end
end
