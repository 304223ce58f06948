# Step size controllers that note what they decide, and torchdiffeq's.

using OrdinaryDiffEqCore: OrdinaryDiffEqCore
using OrdinaryDiffEqCore: AbstractController, AbstractControllerCache

"""
    Noting(controller, tally)

`controller`, with every decision noted in `tally`.
"""
struct Noting{C <: AbstractController} <: AbstractController
    controller::C
    tally::Tally
end

struct NotingCache{C <: AbstractControllerCache} <: AbstractControllerCache
    inner::C
    tally::Tally
end

function OrdinaryDiffEqCore.setup_controller_cache(
        alg, cache, controller::Noting, ::Type{E}, disco_probs
    ) where {E}
    inner = OrdinaryDiffEqCore.setup_controller_cache(alg, cache, controller.controller, E, disco_probs)
    return NotingCache(inner, controller.tally)
end

OrdinaryDiffEqCore.get_EEst(cache::NotingCache) = OrdinaryDiffEqCore.get_EEst(cache.inner)
OrdinaryDiffEqCore.set_EEst!(cache::NotingCache, value) =
    OrdinaryDiffEqCore.set_EEst!(cache.inner, value)

for name in (
        :get_qmin, :get_qmax, :get_qmax_first_step, :get_gamma, :get_qsteady_min,
        :get_qsteady_max, :get_failfactor, :reinit_controller!,
    )
    @eval OrdinaryDiffEqCore.$name(integrator::SciMLBase.DEIntegrator, cache::NotingCache) =
        OrdinaryDiffEqCore.$name(integrator, cache.inner)
end
OrdinaryDiffEqCore.accept_step_controller(integrator, cache::NotingCache, alg) =
    OrdinaryDiffEqCore.accept_step_controller(integrator, cache.inner, alg)
OrdinaryDiffEqCore.post_newton_controller!(integrator, cache::NotingCache, alg) =
    OrdinaryDiffEqCore.post_newton_controller!(integrator, cache.inner, alg)

function OrdinaryDiffEqCore.stepsize_controller!(integrator, cache::NotingCache, alg)
    q = OrdinaryDiffEqCore.stepsize_controller!(integrator, cache.inner, alg)
    note_attempt!(cache.tally, integrator.t, integrator.dt, OrdinaryDiffEqCore.get_EEst(cache))
    return q
end

function OrdinaryDiffEqCore.step_accept_controller!(integrator, cache::NotingCache, alg, q)
    count_accepted!(cache.tally, integrator.tprev, integrator.t)
    return OrdinaryDiffEqCore.step_accept_controller!(integrator, cache.inner, alg, q)
end

function OrdinaryDiffEqCore.step_reject_controller!(integrator, cache::NotingCache, alg)
    count_rejected!(cache.tally, integrator.t)
    OrdinaryDiffEqCore.step_reject_controller!(integrator, cache.inner, alg)
    return nothing
end

"""
    TorchdiffeqController(order, scale, safety, ifactor, dfactor)

torchdiffeq 0.2's rule (`_optimal_step_size`): the next step is the last one times
`safety / error^(1/order)`, between `dfactor` (1 after an accepted step) and `ifactor`.

`scale` is torchdiffeq's error estimate divided by OrdinaryDiffEq's: the two libraries use
different embedded methods for Dormand and Prince's pair.
"""
struct TorchdiffeqController <: AbstractController
    order::Int
    scale::Float64
    safety::Float64
    ifactor::Float64
    dfactor::Float64
end

mutable struct TorchdiffeqCache{E} <: AbstractControllerCache
    const controller::TorchdiffeqController
    EEst::E
end

OrdinaryDiffEqCore.setup_controller_cache(_, _, c::TorchdiffeqController, ::Type{E}, _) where {E} =
    TorchdiffeqCache{E}(c, one(E))

# The solver stores its own estimate; torchdiffeq's is what decides, and what is reported.
OrdinaryDiffEqCore.set_EEst!(cache::TorchdiffeqCache{E}, value) where {E} =
    (cache.EEst = E(value * cache.controller.scale))

"How much longer the next step is to be."
function next_factor(cache::TorchdiffeqCache)
    (; order, safety, ifactor, dfactor) = cache.controller
    ratio = Float64(cache.EEst)
    ratio == 0 && return ifactor
    least = ratio < 1 ? 1.0 : dfactor
    return min(ifactor, max(safety / ratio^(1 / order), least))
end

OrdinaryDiffEqCore.stepsize_controller!(_, cache::TorchdiffeqCache, _) = inv(next_factor(cache))
# Of the step that was made, also where it was shortened to end on a jump.
OrdinaryDiffEqCore.step_accept_controller!(integrator, cache::TorchdiffeqCache, _, _) =
    (integrator.t - integrator.tprev) * next_factor(cache)
function OrdinaryDiffEqCore.step_reject_controller!(integrator, cache::TorchdiffeqCache, _)
    integrator.dt *= next_factor(cache)
    return nothing
end
OrdinaryDiffEqCore.reinit_controller!(_::SciMLBase.DEIntegrator, ::TorchdiffeqCache) = nothing
for (name, value) in (
        (:get_qmin, 0.2), (:get_qmax, 10.0), (:get_qmax_first_step, 10.0), (:get_gamma, 0.9),
        (:get_qsteady_min, 1.0), (:get_qsteady_max, 1.0), (:get_failfactor, 2.0),
    )
    @eval OrdinaryDiffEqCore.$name(::SciMLBase.DEIntegrator, ::TorchdiffeqCache) = $value
end
