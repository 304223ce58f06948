# Forward and backward solves.

using OrdinaryDiffEq:
    OrdinaryDiffEq, AutoTsit5, CallbackSet, ContinuousCallback, DiscreteCallback, ODEProblem, Tsit5, Vern7, init, solve, step!, terminate!
using OrdinaryDiffEqLowOrderRK: OrdinaryDiffEqLowOrderRK, BS3, DP5
using SciMLBase: ReturnCode
using SciMLSensitivity:
    ODEAdjointProblem, BacksolveAdjoint, GaussAdjoint, InterpolatingAdjoint, QuadratureAdjoint,
    SciMLSensitivity, ZygoteVJP
using SciMLLogging: SciMLLogging
using QuadGK: quadgk!

"Says nothing: what went wrong is in the return code, and Python says it."
const SILENT = SciMLLogging.None()

"""
    Controls

torchdiffeq's options of a step size controller, with its defaults; `first_step = 0` leaves
that choice to the solver.
"""
Base.@kwdef struct Controls
    torchdiffeq::Bool = false
    first_step::Float64 = 0.0
    safety::Float64 = 0.9
    ifactor::Float64 = 10.0
    dfactor::Float64 = 0.2
end

"""
    Settings

How one direction is solved.

- `abstol`, `reltol`: a number, or one for each element of the state.
- `norm`: `(u, t) -> number`.
- `maxiters`: steps that may be attempted.
- `jumps`: times at which f jumps: steps end there, and f is evaluated anew on the other side.
- `steps`: times at which steps end.
"""
struct Settings{A, R, N}
    abstol::A
    reltol::R
    norm::N
    maxiters::Int
    controls::Controls
    jumps::Vector{Float64}
    steps::Vector{Float64}
end

"Packages that hold algorithms; those that are not loaded are, when one of theirs is named."
const ALGORITHM_PACKAGES = (
    "OrdinaryDiffEqHighOrderRK", "OrdinaryDiffEqSDIRK", "OrdinaryDiffEqRosenbrock",
    "OrdinaryDiffEqBDF", "OrdinaryDiffEqLowStorageRK", "OrdinaryDiffEqSSPRK",
    "OrdinaryDiffEqStabilizedRK", "OrdinaryDiffEqAdamsBashforthMoulton", "OrdinaryDiffEqFIRK",
    "OrdinaryDiffEqExplicitRK", "OrdinaryDiffEqFeagin", "OrdinaryDiffEqExtrapolation",
    "OrdinaryDiffEqQPRK", "OrdinaryDiffEqPDIRK", "OrdinaryDiffEqStabilizedIRK",
)

"""
    algorithm(name; dense = false)

OrdinaryDiffEq's algorithm of that name, with its defaults; "auto" is Tsit5 that gives way to
Rodas5P where the problem is stiff. `dense` asks for one that has its interpolant ready after
each step.

The interpolants of BS5 and the Verner methods are made on demand otherwise, and the Gauss
adjoint does not demand them: its parameter gradients were off by 1e-5 (SciMLSensitivity 7.112).
"""
function algorithm(name::AbstractString; dense = false)
    name == "Vern7" && return dense ? Vern7(lazy = false) : Vern7()
    for (known, make) in COMMON_ALGORITHMS
        known == name && return make()
    end
    name == "auto" && return AutoTsit5(algorithm("Rodas5P"))
    found = search_algorithm(Symbol(name))
    found === nothing && throw(UnknownAlgorithm(name))
    # A tape computes in its own memory, which dual numbers do not fit.
    finite = hasfield(found, :autodiff) ? (; autodiff = OrdinaryDiffEqCore.AutoFiniteDiff()) : (;)
    ready = dense && hasfield(found, :lazy) ? (; lazy = false) : (;)
    return Base.invokelatest(found; finite..., ready...)
end

const COMMON_ALGORITHMS = ("DP5" => DP5, "Tsit5" => Tsit5, "BS3" => BS3)

is_algorithm(x) = x isa Type && x <: OrdinaryDiffEqCore.OrdinaryDiffEqAlgorithm

function search_algorithm(name::Symbol)
    for loaded in (OrdinaryDiffEq, OrdinaryDiffEqLowOrderRK)
        isdefined(loaded, name) && is_algorithm(getfield(loaded, name)) && return getfield(loaded, name)
    end
    for package in ALGORITHM_PACKAGES
        id = Base.identify_package(package)
        (id === nothing || Base.locate_package(id) === nothing) && continue
        loaded = Base.require(id)
        isdefined(loaded, name) && is_algorithm(getfield(loaded, name)) && return getfield(loaded, name)
    end
    return nothing
end

struct UnknownAlgorithm <: Exception
    name::String
end
Base.showerror(io::IO, e::UnknownAlgorithm) =
    print(io, "OrdinaryDiffEq has no algorithm ", e.name)

default_control(alg, field) =
    noting_controller(OrdinaryDiffEqCore.default_controller(Float64, alg), field)

between(times, from, to) = filter(s -> min(from, to) < s < max(from, to), times)

function common_options(settings, alg, field, from, to)
    (; abstol, reltol, norm, maxiters, controls, jumps, steps) = settings
    direction = sign(to - from)
    first = controls.first_step > 0 ? (; dt = direction * controls.first_step) : (;)
    return (;
        abstol, reltol, internalnorm = norm, maxiters, verbose = SILENT,
        controller = default_control(alg, field),
        tstops = between(steps, from, to), d_discontinuities = between(jumps, from, to), first...,
    )
end

"What a forward solve leaves behind for the backward solve."
struct Solved{S, A}
    solution::S
    algorithm::A
    times::Vector{Float64}
    code::ReturnCode.T
end

"""
    solve_forward!(out, field, u0, times, alg, settings; dense, log)

Solve from `u0` at `times[1]` and write the states at all `times` into the columns of `out`.
`dense` keeps the whole solution, for the adjoints that go through it; a `log` notes the steps,
for the discrete one.
"""
function solve_forward!(
        out, field::Field, u0, times, alg, settings; dense = false, log::Union{Nothing, StepLog} = nothing
    )
    copyto!(view(out, :, 1), u0)
    length(times) == 1 && return Solved(nothing, alg, times, ReturnCode.Success)
    f = ode_function(field, alg)
    log === nothing || follow!(field, log)
    problem = ODEProblem{true}(f, u0, (times[1], times[end]), field.memory.params)
    if settings.controls.torchdiffeq
        # All that a backsolve starts from are the states at the times.
        states = [copy(u0)]
        quartics = dense ? Quartics(times[1], u0) : nothing
        code = march!(f, u0, field.memory.params, times, alg, settings, field; log, quartics) do i, u
            copyto!(view(out, :, i), u)
            dense || log !== nothing || push!(states, copy(u))
        end
        log === nothing || return Solved(log, alg, times, code)
        solution = if dense
            SciMLBase.build_solution(
                problem, alg, quartics.times, quartics.states; retcode = code, dense = true,
                interp = quartics, calculate_error = false
            )
        else
            SciMLBase.build_solution(
                problem, alg, times[1:length(states)], states; retcode = code, dense = false
            )
        end
        return Solved(solution, alg, times, code)
    end
    keep = dense ? (; save_everystep = true) : (; saveat = times, save_everystep = false, dense = false)
    noted = log === nothing ? (;) : (; callback = noting(log, field))
    solution = solve(
        problem, alg; common_options(settings, alg, field, times[1], times[end])..., keep..., noted...
    )
    count_unnoted!(field.tally, solution)
    if SciMLBase.successful_retcode(solution)
        for (i, t) in enumerate(times)
            i == 1 && continue
            dense ? solution(view(out, :, i), t) : copyto!(view(out, :, i), solution.u[i])
        end
    end
    return Solved(log === nothing ? solution : log, alg, times, solution.retcode)
end

"""
    solve_backward!(y_bar, params_bar, field, solved, alg, adjoint, cotangents, settings)

Solve the adjoint from the last time to the first.

# Arguments
- `y_bar`, `params_bar`: filled with dL/dy(t₀) and dL/dθ.
- `adjoint`: one of the keys of `ADJOINTS`.
- `cotangents`: dL/dy(tᵢ) in its columns.

Returns the return code.
"""
function solve_backward!(y_bar, params_bar, field, solved, alg, adjoint, cotangents, settings)
    solved.solution === nothing && return stand_still!(y_bar, params_bar, cotangents)
    fill!(params_bar, 0)
    copyto!(y_bar, view(cotangents, :, 1))
    # The first observation's cotangent takes no part in the solve: it is added at the end.
    cotangent!(out, _, _, _, i) = copyto!(out, view(cotangents, :, i + 1))
    field.wants_params = adjoint in INTEGRATE_PARAMETERS
    if settings.controls.torchdiffeq && adjoint === :backsolve
        return march_backward!(y_bar, params_bar, field, solved, alg, cotangent!, cotangents, settings)
    end
    integrate! = field.wants_params ? integrate_all! :
        adjoint === :quadrature ? integrate_by_quadrature! : integrate_afterwards!
    return in_newest_world(
        integrate!, y_bar, params_bar, field, solved, alg, ADJOINTS[adjoint], cotangent!, settings
    )
end

"The gradient of a solve that made no step: all its states are the first one."
function stand_still!(y_bar, params_bar, cotangents)
    fill!(params_bar, 0)
    sum!(y_bar, cotangents)
    return ReturnCode.Success
end

const BACKSOLVE = BacksolveAdjoint(autojacvec = ZygoteVJP())

"""
SciMLSensitivity's adjoints. All products are ours; their way to products is never used. Of
`Any`: a solve is compiled for the adjoint that is called, not for all of them.
"""
const ADJOINTS = Dict{Symbol, Any}(
    :backsolve => BACKSOLVE,
    :interpolating => InterpolatingAdjoint(autojacvec = ZygoteVJP()),
    :gauss => GaussAdjoint(autojacvec = ZygoteVJP()),
    :quadrature => QuadratureAdjoint(autojacvec = ZygoteVJP()),
)

"Those that integrate dL/dθ with λ, as channels of one state."
const INTEGRATE_PARAMETERS = (:backsolve, :interpolating)

"The state is [λ; a_θ; y], without y where that is interpolated."
function integrate_all!(y_bar, params_bar, field, solved, alg, sensealg, cotangent!, settings)
    times = solved.times
    problem = ODEAdjointProblem(solved.solution, sensealg, alg, view(times, 2:length(times)), cotangent!)
    solution = solve(
        problem, alg; common_options(settings, alg, field, times[end], times[1])...,
        save_everystep = false, save_start = false, saveat = eltype(y_bar)[]
    )
    count_unnoted!(field.tally, solution)
    u = solution.u[end]
    n, m = length(y_bar), length(params_bar)
    y_bar .+= view(u, 1:n)
    copyto!(params_bar, view(u, (n + 1):(n + m)))
    return solution.retcode
end

"The state is λ alone; dL/dθ is an integral over its solution."
function integrate_afterwards!(y_bar, params_bar, field, solved, alg, sensealg, cotangent!, settings)
    times = solved.times
    # What `adjoint_sensitivities` calls after it has looked for a way to make products, which is
    # not asked for here. Compiling that search takes in ReverseDiff, whose recursive types made
    # a package image that Julia 1.10.6 crashed on.
    λ, integral = SciMLSensitivity._adjoint_sensitivities(
        solved.solution, sensealg, alg; t = view(times, 2:length(times)), dgdu_discrete = cotangent!,
        common_options(settings, alg, field, times[end], times[1])...
    )
    y_bar .+= λ
    copyto!(params_bar, vec(integral))
    # The return code stays inside; a solve that ended early did not get here.
    field.tally.reached == times[1] && return ReturnCode.Success
    attempts = field.tally.accepted + field.tally.rejected
    return attempts >= settings.maxiters ? ReturnCode.MaxIters : ReturnCode.Unstable
end

"""
The state is λ alone; dL/dθ is integrated step by step over its solution, by an adaptive
Gauss–Kronrod rule.

SciMLSensitivity's own `QuadratureAdjoint` integrates between observations: it does not see a
layer that only the stiff solver's steps resolve (20 % of a gradient on Robertson's problem).
"""
function integrate_by_quadrature!(y_bar, params_bar, field, solved, alg, sensealg, cotangent!, settings)
    times = solved.times
    problem = ODEAdjointProblem(solved.solution, sensealg, alg, view(times, 2:length(times)), cotangent!)
    adjoint = solve(
        problem, alg; common_options(settings, alg, field, times[end], times[1])...,
        save_everystep = true, save_start = true
    )
    count_unnoted!(field.tally, adjoint)
    SciMLBase.successful_retcode(adjoint) || return adjoint.retcode
    y_bar .+= adjoint.u[end]
    state, λ, part = similar(y_bar), similar(y_bar), similar(params_bar)
    function integrand!(out, t)
        solved.solution(state, t)
        adjoint(λ, t)
        evaluate!(field, JOINT, field.joint, state, λ, t)
        copyto!(out, field.memory.params_bar)
        return out
    end
    whole = abs(times[end] - times[1])
    for (from, to) in zip(adjoint.t[2:end], adjoint.t)
        from == to && continue # the two sides of an observation
        share = abs(to - from) / whole
        start_step!(field, from)
        tolerance = max(settings.abstol, settings.reltol * LinearAlgebra.norm(params_bar)) * share
        quadgk!(integrand!, part, from, to; atol = tolerance, rtol = settings.reltol, order = 3)
        params_bar .+= part
    end
    return ReturnCode.Success
end

"Interval by interval, restarting at each observation, as torchdiffeq's adjoint does."
function march_backward!(y_bar, params_bar, field, solved, alg, cotangent!, cotangents, settings)
    times = solved.times
    problem = ODEAdjointProblem(
        solved.solution, BACKSOLVE, alg, view(times, 2:length(times)), cotangent!
    )
    n = length(y_bar)
    u = zero(problem.u0)
    λ, y = view(u, 1:n), view(u, (length(u) - n + 1):length(u))
    for i in length(times):-1:2
        λ .+= view(cotangents, :, i)
        copyto!(y, solved.solution.u[i])
        field.done = NOTHING
        code = march!(
            problem.f, u, problem.p, [times[i], times[i - 1]], alg, settings, field
        ) do _, state
            copyto!(u, state)
        end
        code == ReturnCode.Success || return code
    end
    y_bar .+= λ
    copyto!(params_bar, view(u, (n + 1):(length(u) - n)))
    return ReturnCode.Success
end
