# The solvers on arrays that, like a GPU's, must not be read one element at a time.

if available("JLArrays", "GPUArrays")
    @eval using JLArrays: JLArray
    @eval using GPUArrays: GPUArrays
    GPUArrays.allowscalar(false)

    @testset "norms do not read single elements" begin
        u = JLArray(Float32[3, 4, 100, 0])
        @test ComponentNorm([1:2, 4:4], similar(u, 0))(u, 0.0) ≈ sqrt(12.5f0)
        weighted = ComponentNorm([1:2, 4:4], JLArray(Float32[1, 0, 1, 1]))
        @test weighted(u, 0.0) ≈ 3
        @test isnan(ComponentNorm([1:2], similar(u, 0))(u .* NaN32, 0.0))
        @test_throws Exception u[1] # that the prohibition works
    end

    @testset "$method, $adjoint, $(torchdiffeq ? "torchdiffeq's control" : "default control"), $T" for
        T in (Float32, Float64), (method, adjoint, torchdiffeq) in (
                ("DP5", :backsolve, false), ("Tsit5", :gauss, false), ("Tsit5", :backsolve, false),
                ("BS3", :backsolve, true), ("DP5", :backsolve, true), ("Vern7", :gauss, false),
            )

        θ, u0, times, cotangents = T[0.5, -1, 2], T[1, 2, -1], [0.0, 0.3, 1.0], T[1 0 2; 0 1 1; 1 1 1]
        options = (; method, adjoint, controls = Controls(; torchdiffeq), tol = 1.0e-5, jumps = [0.6])
        here = solve_both(growth_field(θ), u0, times, cotangents; options...)
        there = solve_both(
            growth_field(JLArray(θ)), JLArray(u0), times, JLArray(cotangents); options...
        )
        @test there.y isa JLArray{T} && there.code == here.code == PySemi.ReturnCode.Success
        # Sums in another order may lead to another step, in single precision.
        near(a, b) = isapprox(Array(a), b; rtol = T == Float32 ? 1.0e-4 : 100eps(T))
        @test near(there.y, here.y) && near(there.y_bar, here.y_bar) && near(there.params_bar, here.params_bar)
        T == Float64 && @test there.forward.accepted == here.forward.accepted
        T == Float64 && @test there.backward.accepted == here.backward.accepted
        @test Array(there.y[:, 3]) ≈ u0 .* exp.(θ) rtol = 1.0e-3
    end
end
