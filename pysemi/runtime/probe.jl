# What pysemi asks a Julia about itself, answered one record a line on stdout:
#
#     pysemi-probe KIND KEY=HEX KEY=HEX ... .
#
# Every value is the hexadecimal form of its UTF-8 text, so that a path, a newline
# or an error message needs no quoting; the final dot shows that the line is whole.
# Other output may come before, between and after. The first record must come out of
# any Julia, however old: pysemi names its version in the refusal.

module PySemiProbe

function record(kind; fields...)
    pairs = [string(key, "=", bytes2hex(codeunits(string(value)))) for (key, value) in fields]
    println(stdout)  # whatever was printed before may have left its line open
    println(stdout, join(["pysemi-probe"; kind; pairs; "."], " "))
    flush(stdout)
end

const LINEAR_ALGEBRA =
    Base.PkgId(Base.UUID("37e2e46d-f89d-539d-b4ee-838fcccc9c8e"), "LinearAlgebra")

function record_blas(LinearAlgebra)
    BLAS = LinearAlgebra.BLAS
    record("blas"; config = BLAS.get_config(), threads = BLAS.get_num_threads())
end

first_line(err) = first(split(sprint(showerror, err), '\n'))

"Say which Julia this is and which of `packages` (names) its project holds; load none of them."
function find(packages)
    record("julia"; version = VERSION, threads = Threads.nthreads())
    # The project itself, not the user's global environment behind it.
    empty!(LOAD_PATH)
    append!(LOAD_PATH, ["@", "@stdlib"])
    try
        Base.invokelatest(record_blas, Base.require(LINEAR_ALGEBRA))
    catch err
        record("blas"; config = first_line(err))
    end
    for name in packages
        id = Base.identify_package(name)
        path = id === nothing ? nothing : Base.locate_package(id)
        if id === nothing
            record("package"; name = name)
        elseif path === nothing
            record("package"; name = name, uuid = id.uuid)
        else
            record("package"; name = name, uuid = id.uuid, path = path, version = version_at(path))
        end
    end
    record("found")
end

"Version of the package whose main file is `path`, or an empty string."
function version_at(path)
    folder = dirname(dirname(path))
    for file in ("JuliaProject.toml", "Project.toml")
        project = joinpath(folder, file)
        isfile(project) || continue
        for line in eachline(project)
            startswith(line, "[") && break  # "version" stands before the first table
            found = match(r"^version\s*=\s*[\"']([^\"']+)[\"']", line)
            found === nothing || return found.captures[1]
        end
    end
    return ""
end

cuda_functional(CUDA) = CUDA.functional()

"Load the package `name` and say how it went."
function load(name)
    record("loading"; name = name)
    began = time()
    try
        loaded = Base.require(Main, Symbol(name))
        functional = name == "CUDA" ? Base.invokelatest(cuda_functional, loaded) : ""
        record("loaded"; name = name, seconds = time() - began, functional = functional)
    catch err
        record("failed"; name = name, error = first_line(err))
    end
end

end # module

if abspath(PROGRAM_FILE) == abspath(@__FILE__)
    PySemiProbe.find(ARGS)
end
