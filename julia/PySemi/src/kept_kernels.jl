# Fused kernels that outlive the process that compiled them. The kernels of a tape are written
# as a small package, which `compile_kernels.jl` precompiles in a process of its own, and which
# later processes load like any other.

"Where the packages are, and how long a tape must have taken to be kept, in seconds."
struct KernelFolder
    path::String
    after::Float64
end

const KERNEL_FOLDER = Ref{Union{Nothing, KernelFolder}}(nothing)

"""
    keep_kernels(path, after)

Load kernels that were kept in the folder `path`, and keep those of tapes that take longer
than `after` seconds to read. Returns the command that compiles packages of kernels, up to
their names, with zero bytes between its words.
"""
function keep_kernels(path::AbstractString, after::Real)
    # Julia loads an image with the very images that it was made with, and no others.
    folder = joinpath(path, string(Base.module_build_id(@__MODULE__); base = 16))
    KERNEL_FOLDER[] = KernelFolder(folder, after)
    root = pkgdir(@__MODULE__)
    words = [
        # With the options that decide what image fits.
        Base.julia_cmd().exec..., "--startup-file=no", "--project=$(Base.active_project())",
        joinpath(root, "compile_kernels.jl"), folder, dirname(root),
    ]
    return join(words, '\0')
end

"""
    LoopCode(buffers, out, views, program)

What the machine code of a pointwise loop depends on: the program, its operands' element types
and how each of them moves in the innermost loop; the result's first.
"""
struct LoopCode
    program::String
    elements::Vector{String}
    movements::Vector{String}
end

function LoopCode(buffers, out, views, program)
    nest = Nest(out, views...)
    elements, movements = String[], String[]
    # In arrays, and by a loop: tuples of movements are of many types, and there are many loops.
    for (k, window) in enumerate(Window[out, views...])
        step = nest.strides[k][1]
        kind = k == 1 ? result_movement(step) : movement(step)
        push!(elements, string(eltype(buffers[window.buffer])))
        push!(movements, string(nameof(typeof(kind))))
    end
    return LoopCode(program, elements, movements)
end

"Under which `Scalars` has the program's function."
key(code::LoopCode) = Scalars.key(code.program, length(code.elements) - 1)

"The call that compiles it, as text of a package that has the functions."
function compile_call(code::LoopCode)
    elements, movements = join(code.elements, ", "), join(code.movements .* "()", ", ")
    return "PySemi.compile_loop(wrapped, FUNCTIONS[$(repr(key(code)))], ($elements,), ($movements,))"
end

"A package of compiled kernels: its name says which."
struct KernelPackage
    name::String
    uuid::Base.UUID
    source::String
end

function KernelPackage(codes)
    calls = sort!(unique!(map(compile_call, codes)))
    programs = sort!(unique!([(code.program, length(code.elements) - 1) for code in codes]))
    contents = join(calls, '\n')
    high, low = hash(contents, UInt(1)), hash(contents, UInt(2))
    name = "PySemiKernels_" * string(high; base = 16, pad = 16)
    definitions = map(programs) do (program, inputs)
        "FUNCTIONS[$(repr(Scalars.key(program, inputs)))] = $(Scalars.source(program, inputs))"
    end
    # Some mean other than Base's functions of these names.
    vocabulary = unique!(mapreduce(program -> Scalars.vocabulary(program...), vcat, programs))
    imported = isempty(vocabulary) ? "" : "using PySemi.Scalars: $(join(sort!(vocabulary), ", "))"
    source = """
    # Written by PySemi.jl, to be compiled once for all processes: kernels of one tape.
    module $name

    using PrecompileTools: @compile_workload
    using PySemi: PySemi, AsRun, AsSingle, AsStride
    $imported

    wrapped(call::F) where {F} = PySemi.Thunk(PySemi.Referred(call))

    const FUNCTIONS = Dict{String, Function}()
    $(join(definitions, '\n'))

    @compile_workload begin
    $(join(calls, '\n'))
    end

    end # module
    """
    return KernelPackage(name, Base.UUID((UInt128(high) << 64) | low), source)
end

project(package::KernelPackage) = """
name = "$(package.name)"
uuid = "$(package.uuid)"

[deps]
PrecompileTools = "aea7be01-6a6a-4083-8856-8a6e6704d82a"
PySemi = "$(Base.PkgId(@__MODULE__).uuid)"
"""

"""
    compile_loop(wrap, f, elements, movements)

Run a loop over no elements, in every way in which a tape's reader and its programs call it.
Called while a package of kernels is precompiled.
"""
function compile_loop(wrap, f, elements, movements)
    memory = map(T -> zeros(T, 1), elements)
    GC.@preserve memory begin
        out, args... = map(pointer, memory)
        levels(first) = ntuple(i -> i == 1 ? first : 1, LEVELS)
        nest = Nest{length(elements)}(levels(0), map(_ -> levels(0), elements))
        to, from... = movements
        # Not inferred from here: the reader does not know these types either.
        loop = Base.invokelatest(PointwiseLoop, f, out, Tuple(args), to, Tuple(from), nest)
        Base.invokelatest(wrap, loop)()
    end
    return nothing
end

const LOADED_KERNELS = Dict{String, Dict{String, Function}}()

"""
Make the functions of the package's compiled kernels those of their programs, and say whether
there was such a package. Never compiles one, and never fails: what does not load is compiled
in this process.
"""
function load_kernels(package::KernelPackage, folder)
    functions = Base.get(LOADED_KERNELS, package.name, nothing)
    if functions === nothing
        isdir(joinpath(folder, package.name)) || return false
        try
            loaded = loaded_package(Base.PkgId(package.uuid, package.name), folder)
            loaded === nothing && return false
            functions = getglobal(loaded, :FUNCTIONS)
            for f in values(functions)
                WRAPPERS[f] = getglobal(loaded, :wrapped)
            end
        catch error
            error isa InterruptException && rethrow()
            @debug "kernels do not load" package = package.name exception = error
        end
        functions === nothing && return false
        LOADED_KERNELS[package.name] = functions
        mark_used(joinpath(folder, package.name))
    end
    # In place of functions whose loops move otherwise, if there are any.
    merge!(Scalars.COMPILED, functions)
    return true
end

"A package in `folder`; nothing if it is not there or its image is out of date."
function loaded_package(id, folder)
    push!(LOAD_PATH, folder)
    push!(DEPOT_PATH, folder)
    try
        source = Base.locate_package(id)
        source === nothing && return nothing
        images = Base.find_all_in_cache_path(id)
        # What is out of date would be compiled by `require`, while somebody waits.
        all(image -> Base.stale_cachefile(source, image) === true, images) && return nothing
        return Base.require(id)
    finally
        pop!(LOAD_PATH)
        pop!(DEPOT_PATH)
    end
end

"For how long a package that could not be compiled is left alone, in seconds."
const RETRY_AFTER = 24 * 3600

"""
Write the package's source, whole or not at all; say whether it is there to be compiled.
A folder that cannot be written to holds what others have put there, and no more.
"""
function write_package(package::KernelPackage, folder)
    place = joinpath(folder, package.name)
    time() - mtime(joinpath(place, "failed")) < RETRY_AFTER && return false
    try
        isdir(place) && return true
        mkpath(folder)
        # Beside its place, so that moving it is one step.
        temporary = tempname(folder; cleanup = false)
        mkpath(joinpath(temporary, "src"))
        write(joinpath(temporary, "src", package.name * ".jl"), package.source)
        write(joinpath(temporary, "Project.toml"), project(package))
        mark_used(temporary)
        try
            mv(temporary, place)
        catch
            isdir(place) || rethrow() # else another process was quicker
        finally
            rm(temporary; force = true, recursive = true)
        end
        return true
    catch error
        error isa Union{SystemError, Base.IOError} || rethrow()
        @debug "kernels cannot be kept" folder exception = error
        return false
    end
end

"What has not been used for long is removed; see compile_kernels.jl."
function mark_used(place)
    try
        touch(joinpath(place, "used"))
    catch error # of somebody else's folder
        error isa Union{SystemError, Base.IOError} || rethrow()
    end
    return nothing
end
