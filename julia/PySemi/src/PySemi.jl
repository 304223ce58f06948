"""
Solves neural differential equations that pysemi describes, forward and backward.

A vector field comes as a tape of kernels (`tape.jl`) or as a function of Python's; the
solvers are OrdinaryDiffEq's; SciMLSensitivity's adjoints are in PySemiAdjoints, beside this
package; Python calls through the C functions of `border.jl`.
"""
module PySemi

using LinearAlgebra: LinearAlgebra, BLAS
using SciMLBase: SciMLBase

include("scalars.jl")
include("windows.jl")
include("kernels/pointwise.jl")
include("kernels/products.jl")
include("kernels/reductions.jl")
include("kernels/indexing.jl")
include("kernels/linear_systems.jl")
include("strided.jl")
include("broadcasts/pointwise.jl")
include("broadcasts/products.jl")
include("broadcasts/reductions.jl")
include("broadcasts/indexing.jl")
include("broadcasts/linear_systems.jl")
include("memory.jl")
include("kept_kernels.jl")
include("gather.jl")
include("tape.jl")
include("statistics.jl")
include("stopping.jl")
include("norms.jl")
include("field.jl")
include("control.jl")
include("runge_kutta.jl")
include("discrete.jl")
include("solve.jl")
include("restart.jl")
include("events.jl")
include("torchdiffeq.jl")
include("adjoints.jl")
include("border.jl")
include("precompile.jl")

end # module
