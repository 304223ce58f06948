# julia --project=ENV julia/PySemi/test/runtests.jl [FILE...]
#
# ENV is the Julia environment that pysemi runs in; PySemi and PySemiAdjoints are the ones beside
# this file.

push!(LOAD_PATH, normpath(joinpath(@__DIR__, "..", "..")))

using LinearAlgebra
using Random
using Test

using PySemi
using PySemiAdjoints
using PySemi: PySemi, Field, Memory, Scalars, Thunk, Window

const FILES = [
    "scalars", "windows", "kernels", "loops", "tape", "norms", "field", "solve", "events", "torchdiffeq", "discrete", "kept_kernels",
    "border", "jlarrays", "compiled", "qa",
]

"Whether a package is in the environment; says so if not."
function available(packages...)
    missing_ones = filter(name -> Base.find_package(name) === nothing, collect(packages))
    isempty(missing_ones) || println("skipped: ", join(missing_ones, ", "), " not in the environment")
    return isempty(missing_ones)
end

include("tapes.jl")
include("models.jl")

@testset "PySemi" begin
    @testset "$file" for file in (isempty(ARGS) ? FILES : ARGS)
        Random.seed!(0)
        seconds = @elapsed include("$file.jl")
        println(rpad(file, 12), round(seconds; digits = 1), " s")
    end
end
