# The adjoints that are solved as equations are in a package of their own, PySemiAdjoints: what it
# loads takes longer than all else, and neither forward solves nor discrete adjoints need it.

# Not used here. What is compiled without these two is compiled again, for seconds, when
# PySemiAdjoints loads them: their methods are more specific than others that solvers call.
using ForwardDiff: ForwardDiff
using StaticArrays: StaticArrays

const ADJOINTS_PACKAGE = Base.PkgId(Base.UUID("0c6b2f4e-9d57-4f0e-8d43-7b1e5a92c6d8"), "PySemiAdjoints")

"Whether PySemiAdjoints is loaded; it says so itself."
const HAS_ADJOINTS = Ref(false)

"""
    load_adjoints()

Load what solves adjoints, once.
"""
function load_adjoints()
    HAS_ADJOINTS[] && return nothing
    try
        Base.require(ADJOINTS_PACKAGE)
    catch error
        throw(ErrorException("PySemiAdjoints.jl could not be loaded: $(sprint(showerror, error))"))
    end
    return nothing
end

"""
    backward_by_adjoint(adjoint, field, solved, request, params_bar, report)

Solve an adjoint, of one of the [`ADJOINT_NAMES`](@ref) but `:discrete`, and fill the report.
PySemiAdjoints has its method.
"""
function backward_by_adjoint end

"""
    compile_adjoints()

Compile PySemiAdjoints: whoever has just waited for PySemi to be compiled is not to wait once more
in the midst of a training. What goes wrong is said when an adjoint is asked for.
"""
function compile_adjoints()
    try
        Base.isprecompiled(ADJOINTS_PACKAGE) || Base.compilecache(ADJOINTS_PACKAGE)
    catch
    end
    return nothing
end
