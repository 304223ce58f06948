"""
Solves adjoints with SciMLSensitivity, for PySemi, which loads this package when a backward solve
first needs it.
"""
module PySemiAdjoints

using LinearAlgebra: LinearAlgebra

include("adjoints.jl")
include("precompile.jl")

function __init__()
    PySemi.HAS_ADJOINTS[] = true
    return nothing
end

end # module
