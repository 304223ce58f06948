# The solvers on arrays that, like a GPU's, must not be read one element at a time.

if available("JLArrays", "GPUArrays")
    @eval using JLArrays: JLArray
    @eval using GPUArrays: GPUArrays
    GPUArrays.allowscalar(false)

    @testset "the kernels of such arrays do what the loops do" begin
        KIND[] = JLArray(UInt8[])
        include("kernels.jl")
        KIND[] = UInt8[]
    end

    @testset "a broadcast in place copies nothing first" begin
        buffers = [JLArray(ones(12))]
        gaps, elsewhere = Window(1, [2, 2], [3, 1], 1), Window(1, [2, 2], [3, 1], 7)
        for here in (Window(1, [4], [1], 2), gaps)
            again = Window(here.buffer, copy(here.shape), copy(here.strides), here.offset)
            kernel = PySemi.PointwiseBroadcast(+, buffers, here, (again, here))
            @test kernel.args[1] === kernel.out && kernel.args[2] === kernel.out
        end
        kernel = PySemi.PointwiseBroadcast(+, buffers, gaps, (elsewhere, gaps))
        @test kernel.args[1] !== kernel.out
        kernel()
        @test Array(buffers[1])[[2, 3, 5, 6]] == fill(2.0, 4)
    end

    @testset "what lies together is an array of the library's own" begin
        buffers = [JLArray(collect(1.0:24.0))]
        own(shape, strides) = PySemi.array_of(buffers, Window(1, shape, strides, 0)) isa JLArray
        @test own([2, 3, 4], [12, 4, 1]) && own([1, 3], [0, 1]) && own(Int[], Int[]) && own([0, 3], [3, 1])
        @test !own([2, 3], [1, 2]) && !own([2, 3], [4, 1]) && !own([2, 3], [0, 1])
    end

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
                ("Tsit5", :interpolating, false), ("Tsit5", :quadrature, false),
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

    @testset "a compiled perceptron in $T, $method, $adjoint" for
        T in (Float32, Float64), (method, adjoint, torchdiffeq) in
            (
                ("DP5", :backsolve, true), ("Tsit5", :backsolve, false), ("Tsit5", :gauss, false),
                ("Tsit5", :interpolating, false), ("Tsit5", :quadrature, false),
            )

        b = 4
        times, u0 = [0.0, 0.4, 1.0], T.(range(-1, 1; length = 2b))
        cotangents = T.(reshape(sin.(1:6b), 2b, 3))
        function solved(like)
            field = Field(PySemi.read_tape(PySemi.perceptron_tape(T, b), like))
            copyto!(field.memory.params, T.(cos.(1:15)))
            on(x) = copyto!(similar(like, T, size(x)), x)
            options = (; method, adjoint, controls = Controls(; torchdiffeq), tol = 1.0e-6)
            return solve_both(field, on(u0), times, on(cotangents); options...)
        end
        here, there = solved(UInt8[]), solved(JLArray(UInt8[]))
        @test there.y isa JLArray{T} && there.code == here.code == PySemi.ReturnCode.Success
        near(a, b) = isapprox(Array(a), b; rtol = T == Float32 ? 1.0e-4 : 1.0e-12)
        @test near(there.y, here.y) && near(there.y_bar, here.y_bar) && near(there.params_bar, here.params_bar)
        @test T == Float32 || there.backward.accepted == here.backward.accepted
    end

    @testset "the discrete adjoint of a compiled perceptron, $method" for (method, torchdiffeq) in
        (("DP5", true), ("Tsit5", false), ("Vern7", false))

        times, u0 = [0.0, 0.4, 1.0], collect(range(-1, 1; length = 8))
        cotangents = reshape(sin.(1:24), 8, 3)
        function solved(like)
            field = Field(PySemi.read_tape(PySemi.perceptron_tape(Float64, 4), like))
            copyto!(field.memory.params, cos.(1:15))
            on(x) = copyto!(similar(like, Float64, size(x)), x)
            return discrete_gradient(field, on(u0), times, on(cotangents); method, controls = Controls(; torchdiffeq))
        end
        here, there = solved(UInt8[]), solved(JLArray(UInt8[]))
        @test there.y_bar isa JLArray && there.code == PySemi.ReturnCode.Success
        @test Array(there.y) ≈ here.y && Array(there.y_bar) ≈ here.y_bar && Array(there.params_bar) ≈ here.params_bar
    end

    @testset "a Jacobian is made row by row" begin
        field = growth_field(JLArray([0.5, -1.0, 2.0]))
        J = JLArray(zeros(3, 3))
        PySemi.StateJacobian(field)(J, JLArray(ones(3)), nothing, 0.0)
        @test Array(J) == [0.5 0 0; 0 -1 0; 0 0 2]
    end

    @testset "a compiled event function ends a solve" begin
        thresholds = JLArray([3.0, 2.0])
        values = programmed(m -> m.dy .= m.y .- m.params, identity, thresholds, thresholds)
        u0, field = JLArray([1.0, 1.0]), growth_field(JLArray([0.5, 0.5]))
        event = PySemi.TapeEvent(values, u0, 0.0)
        @test event.signs isa JLArray && event(JLArray([2.5, 1.0]), 0.0) == 0.5
        @test_throws PySemi.EventIsNaN event(JLArray([2.5, NaN]), 0.0)
        prepare!(
            field; recording = false, stop = Ptr{PySemi.Stop}(C_NULL), from = 0.0, direction = 1, jumps = Float64[],
            wants_params = false
        )
        norm = ComponentNorm([1:2], similar(u0, 0))
        settings = Settings(1.0e-8, 1.0e-8, norm, 1000, Controls(), Float64[], Float64[])
        out = JLArray(zeros(2, 2))
        solved = PySemi.solve_until!(event, out, field, u0, 0.0, 1, algorithm("Tsit5"), settings)
        @test solved.times[2] ≈ 2log(2) rtol = 1.0e-6
        @test Array(out) ≈ [1 2; 1 2] rtol = 1.0e-6
    end
end
