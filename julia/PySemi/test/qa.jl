if available("Aqua")
    @eval using Aqua: Aqua
    # A package on LOAD_PATH takes its versions from the environment that it is used in, so
    # it has no [compat]; and there is no registry or project of its own in which a process
    # that tests for persistent tasks or ambiguities could find it.
    @testset "Aqua" begin
        for package in (PySemi, PySemiAdjoints)
            Aqua.test_all(
                package; deps_compat = false, persistent_tasks = false, ambiguities = false,
                # Whose only method is in PySemiAdjoints.
                piracies = (; treat_as_own = [PySemi.backward_by_adjoint])
            )
            @test isempty(Test.detect_ambiguities(package; recursive = true))
        end
    end
end

if available("JET")
    @eval using JET: JET
    # Runtime dispatch inside of others' functions is theirs.
    clean(call, types) = isempty(JET.get_reports(JET.report_opt(call, types; target_modules = (PySemi, Scalars))))

    @testset "hot paths know their types" begin
        tanh_sum = Scalars.compile("v1 = x1 + x2; tanh(v1)", 2)
        for T in (Float32, Float64)
            buffers = [zeros(T, 8)]
            dense = Window(1, [2, 3], [3, 1], 0)
            loop = PySemi.PointwiseLoop(tanh_sum, buffers, dense, (dense, dense))
            @test clean(loop, ())
            product = PySemi.Product(buffers, Window(1, [2, 2], [2, 1], 0), dense, Window(1, [3, 2], [2, 1], 0), false)
            @test clean(product, ())
            sums = PySemi.Reduction(+, buffers, Window(1, [2, 3], [1, 0], 0), dense, false)
            @test clean(sums, ())
            for K in (PySemi.MovingWindow{T}, PySemi.Take{T}, PySemi.Put{typeof(+), T}, PySemi.SearchSorted{T})
                @test isempty(JET.get_reports(JET.report_opt(Tuple{K}; target_modules = (PySemi,))))
            end
            V = Vector{T}
            @test clean(PySemi.evaluate!, (Field{T, V}, PySemi.Level, Thunk, V, V, Float64))
            @test clean(PySemi.evaluate!, (Field{T, V}, PySemi.Level, Thunk, V, Nothing, Float64))
            @test isempty(
                JET.get_reports(JET.report_opt(Tuple{PySemi.TapeEvent{T, V}, V, Float64}; target_modules = (PySemi,)))
            )
            for W in (V, SubArray{T, 1, V, Tuple{UnitRange{Int}}, true})
                @test isempty(
                    JET.get_reports(JET.report_opt(Tuple{ComponentNorm{T, V}, W, Float64}; target_modules = (PySemi,)))
                )
            end
        end
        unstable(x) = PySemi.ELEMENT_TYPES["Float32"](x) + 1
        @test !isempty(JET.get_reports(JET.report_opt(unstable, (Float64,)))) # that it would be seen
    end
end
