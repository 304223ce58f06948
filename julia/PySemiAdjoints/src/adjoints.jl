# Backward solves of adjoints that are equations themselves.

using OrdinaryDiffEqCore: isimplicit
using PySemi:
    PySemi, CBackward, Field, JOINT, NOTHING, Solved, algorithm, as_matrix, as_vector, common_options,
    count_unnoted!, evaluate!, gradient_status, in_newest_world, march!, nparams, nstates, prepare!,
    report!, settings_of, stand_still!, start_step!, status_of
using QuadGK: quadgk!
using SciMLBase: SciMLBase, ReturnCode, solve
using SciMLSensitivity:
    ODEAdjointProblem, BacksolveAdjoint, GaussAdjoint, InterpolatingAdjoint, QuadratureAdjoint,
    SciMLSensitivity, ZygoteVJP

function PySemi.backward_by_adjoint(
        adjoint, field::Field{T}, solved::Solved, c::CBackward, params_bar, report
    ) where {T}
    began = time_ns()
    n, m = nstates(field), nparams(field)
    nchannels = adjoint === :backsolve ? 2n + m : adjoint === :interpolating ? n + m : n
    settings = settings_of(T, c.settings, nchannels)
    times = solved.times
    direction = times[end] >= times[1] ? -1 : 1
    prepare!(
        field; recording = c.recording != 0, c.stop, from = times[end], direction, settings.jumps,
        wants_params = true
    )
    implicit = false
    status = try
        alg = algorithm(unsafe_string(c.settings.algorithm); dense = adjoint !== :backsolve)
        implicit = isimplicit(alg)
        cotangents = as_matrix(T, c.cotangents, n, length(times))
        gradient_status(as_vector(T, c.y_bar, n), params_bar, cotangents) do y_bar, params_bar
            status_of(
                in_newest_world(
                    solve_backward!, y_bar, params_bar, field, solved, alg, adjoint, cotangents, settings
                )
            )
        end
    catch error
        status_of(error)
    end
    return report!(report, status, field.tally, began; implicit)
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
