# Integrators that are used again: to make one takes longer than the steps of a small solve.

"Methods whose integrators are known to remember nothing else than what `restart!` sets."
const RESTARTED = Union{BS3, DP5, Tsit5, Vern7}

"What an integrator consisted of when `restart!` was written; one that has more is made anew each time."
const INTEGRATOR_FIELDS = (
    :sol, :u, :du, :k, :t, :dt, :f, :p, :uprev, :uprev2, :duprev, :tprev, :alg, :dtcache, :dtchangeable,
    :dtpropose, :tdir, :eigen_est, :controller_cache, :success_iter, :iter, :saveiter, :saveiter_dense,
    :cache, :callback_cache, :kshortsize, :force_stepfail, :last_stepfail, :just_hit_tstop,
    :next_step_tstop, :tstop_target, :do_error_check, :event_last_time, :vector_event_last_time,
    :last_event_error, :accept_step, :isout, :reeval_fsal, :derivative_discontinuity, :reinitialize,
    :isdae, :opts, :stats, :initializealg, :differential_vars, :fsalfirst, :fsallast, :rng, :is_disco_step,
    :disco_checkpoint, :W, :P, :sqdt, :noise, :c, :rate_constants,
)

const RESTARTS = fieldnames(OrdinaryDiffEqCore.ODEIntegrator) == INTEGRATOR_FIELDS

"""
    with_integrator(act, make, renew!, field, alg, tspan, size)

The answer of `act` to the integrator that `make()` makes, or to that of the field's last solve, if
it was made alike, after `renew!(integrator)`. `act` keeps nothing of its solution, which has so
many numbers as `size` says.
"""
function with_integrator(act, make::M, renew!, field, alg, tspan, size) where {M}
    RESTARTS && alg isa RESTARTED && size <= MOST_KEPT || return act(make())
    kept = field.kept
    # What an exception ends is not used again.
    field.kept = nothing
    if kept !== nothing && kept.maker === M && kept.algorithm === alg && kept.tspan === tspan
        answer = unseen(act_again)(act, renew!, kept.integrator)
    else
        integrator = make()
        answer = act(integrator)
        kept = Kept(integrator, alg, tspan, M)
    end
    field.kept = kept
    return answer
end

act_again(act, renew!, integrator) = (renew!(integrator); act(integrator))

"""
    restart!(integrator, u0, settings, controller; maxiters, tstops, d_discontinuities, saveat, dt)

Bring an integrator into the state that `init` would have made it in, for the same span of time.
What is not set here or by `reinit!`, a solve of the [`RESTARTED`](@ref) methods does not change.
"""
function restart!(integrator, u0, settings, controller; maxiters, tstops, d_discontinuities, saveat, dt)
    (; opts, cache, controller_cache) = integrator
    opts.abstol, opts.reltol, opts.internalnorm = settings.abstol, settings.reltol, settings.norm
    opts.maxiters = maxiters
    opts.tstops_cache, opts.d_discontinuities_cache, opts.saveat_cache = tstops, d_discontinuities, saveat
    E = typeof(OrdinaryDiffEqCore.get_EEst(controller_cache))
    integrator.controller_cache = OrdinaryDiffEqCore.setup_controller_cache(
        integrator.alg, cache, controller, E, SciMLBase.IntervalNonlinearProblem[]
    )
    OrdinaryDiffEqCore.set_EEst!(integrator.controller_cache, oneunit(E))
    forget_steps!(integrator)
    SciMLBase.reinit!(
        integrator, u0; tstops, d_discontinuities, saveat, reset_dt = false, reinit_dae = false
    )
    integrator.saveiter_dense = integrator.saveiter
    start_dt = dt === nothing ? zero(integrator.dt) : dt
    integrator.dt = integrator.dtcache = integrator.dtpropose = start_dt
    OrdinaryDiffEqCore.handle_dt!(integrator, dt)
    return integrator
end

"What one step tells the next, as before the first."
function forget_steps!(integrator)
    integrator.force_stepfail = integrator.last_stepfail = integrator.accept_step = false
    integrator.just_hit_tstop = integrator.next_step_tstop = integrator.isout = false
    integrator.reeval_fsal = integrator.is_disco_step = false
    integrator.reinitialize = integrator.do_error_check = true
    integrator.event_last_time, integrator.vector_event_last_time = 0, 1
    integrator.tstop_target = integrator.disco_checkpoint = integrator.sol.prob.tspan[1]
    integrator.eigen_est = oneunit(integrator.eigen_est)
    (; stats) = integrator
    stats.naccept = stats.nreject = stats.nf = 0
    return nothing
end
