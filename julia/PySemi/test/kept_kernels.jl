using PySemi: read_tape

function evaluated(tape)
    copyto!(tape.memory.y, 1:length(tape.memory.y))
    fill!(tape.memory.params, 0.5)
    PySemi.TapeProgram(tape.programs["field"])()
    return copy(tape.memory.dy)
end

@testset "a package is of kernels, not of sizes" begin
    with_folder() do _, _
        name(args...) = read_tape(kept_tape(args...)).package.name
        @test name("x1 + cosh(x2)") == name("x1 + cosh(x2)", "7,4", 28) == name("x1 + cosh(x2)", "5", 5)
        @test name("x1 + cosh(x2)") != name("x1 - cosh(x2)")
        transposed = replace(kept_tape("x1 + cosh(x2)"), "%2[2,3]" => "%2[2,3|1,2|0]")
        @test read_tape(transposed).package.name != name("x1 + cosh(x2)")
    end
    @test read_tape(kept_tape("x1 + cosh(x2)")).package === nothing # where nothing is kept
end

@testset "what is wrong with a tape is said of its line" begin
    with_folder() do _, _
        @test_throws "no function nonsense, in line 9" read_tape(kept_tape("nonsense(x1, x2)"))
        broken = replace(kept_tape("x1 + x2"), "%2[2,3]" => "%2[3,2]")
        @test_throws "operands of several shapes, in line 9" read_tape(broken)
    end
end

@testset "compiled once, loaded after" begin
    with_folder() do folder, command
        # Functions of our own, of others, and some that mean other than Base's; constants.
        program = "v1 = sqrt(x1 - Float64(2.0)); v2 = ifelse(isnan(v1), x2, v1); v3 = erf(v2); sigmoid(v3) + power(x1, x2)"
        text = kept_tape(program)
        first = read_tape(text)
        @test PySemi.write_package(first.package, folder)
        @test PySemi.write_package(first.package, folder) # again, as another process would
        @test read_tape(text).package !== nothing # written, not compiled

        # Two at once, of which one is killed: the other compiles it.
        name = first.package.name
        victim, other = (run(pipeline(`$command $name`; stderr = devnull); wait = false) for _ in 1:2)
        sleep(3)
        kill(victim, Base.SIGKILL)
        wait(other)
        @test !isfile(joinpath(folder, name, "failed"))
        @test isdir(joinpath(folder, "compiled", "v$(VERSION.major).$(VERSION.minor)", name))

        second = read_tape(text)
        @test second.package === nothing
        @test evaluated(second) == evaluated(first)
        loaded = PySemi.LOADED_KERNELS[name]
        @test Scalars.compile(program, 2) === only(values(loaded))
        @test nameof(parentmodule(only(values(loaded)))) == Symbol(name)
    end
end

@testset "a package that does not compile is left alone for a while" begin
    with_folder() do folder, command
        package = read_tape(kept_tape("x1 * cosh(x2)")).package
        @test PySemi.write_package(package, folder)
        source = joinpath(folder, package.name, "src", package.name * ".jl")
        write(source, "module $(package.name)\nerror(\"broken on purpose\")\nend\n")
        run(`$command $(package.name)`)
        @test occursin(package.name, read(joinpath(folder, package.name, "failed"), String))
        @test !PySemi.write_package(package, folder)
        @test evaluated(read_tape(kept_tape("x1 * cosh(x2)"))) ≈ (1:6) .* cosh(0.5)
    end
end

@testset "a folder that cannot be written to" begin
    mktemp() do file, _
        PySemi.keep_kernels(file, 0)
        try
            tape = read_tape(kept_tape("x1 / cosh(x2)"))
            @test !PySemi.write_package(tape.package, PySemi.KERNEL_FOLDER[].path)
            @test evaluated(tape) ≈ (1:6) ./ cosh(0.5)
        finally
            PySemi.KERNEL_FOLDER[] = nothing
        end
    end
end

@testset "what is not used for long goes" begin
    with_folder() do folder, command
        old = joinpath(dirname(folder), "0123abcd")
        mkpath(joinpath(old, "PySemiKernels_0"))
        run(`touch -d "40 days ago" $(joinpath(old, "PySemiKernels_0")) $old`)
        recent = joinpath(dirname(folder), "4567cdef")
        mkpath(recent)
        # One more than are kept; the first was used last.
        places = [joinpath(folder, "PySemiKernels_$i") for i in 0:200]
        for (i, place) in enumerate(places)
            mkpath(place)
            touch(joinpath(place, "Project.toml"))
            run(`touch -d "$(2 * i) minutes ago" $(joinpath(place, "used"))`)
        end
        run(command) # of no package
        @test !isdir(old)
        @test isdir(recent)
        @test map(isdir, places) == [trues(200); false]
    end
end
