# Step size controllers that note what they decide, and torchdiffeq's.

using OrdinaryDiffEqCore: OrdinaryDiffEqCore
using OrdinaryDiffEqCore: AbstractController, AbstractControllerCache, CompositeController

"""
    Noting(controller, field)

`controller`, with every decision noted in the field's tally. The field is told where steps
start, so that it knows which side of a jump is meant.
"""
struct Noting{C <: AbstractController, F <: Field} <: AbstractController
    controller::C
    field::F
end

noting_controller(controller, field) = Noting(controller, field)
# Of algorithms that take turns, each has its own.
noting_controller(controller::CompositeController, field) =
    CompositeController(map(part -> Noting(part, field), controller.controllers))

struct NotingCache{C <: AbstractControllerCache, F <: Field} <: AbstractControllerCache
    inner::C
    field::F
end

function OrdinaryDiffEqCore.setup_controller_cache(
        alg, cache, controller::Noting, ::Type{E}, disco_probs
    ) where {E}
    inner = OrdinaryDiffEqCore.setup_controller_cache(alg, cache, controller.controller, E, disco_probs)
    return NotingCache(inner, controller.field)
end

OrdinaryDiffEqCore.get_EEst(cache::NotingCache) = OrdinaryDiffEqCore.get_EEst(cache.inner)
OrdinaryDiffEqCore.set_EEst!(cache::NotingCache, value) =
    OrdinaryDiffEqCore.set_EEst!(cache.inner, value)

# The solver reads a cache's knobs as `cache.controller.basic`.
Base.getproperty(cache::NotingCache, name::Symbol) =
    name === :controller ? getfield(cache, :inner).controller : getfield(cache, name)

OrdinaryDiffEqCore.reinit_controller!(integrator::SciMLBase.DEIntegrator, cache::NotingCache) =
    OrdinaryDiffEqCore.reinit_controller!(integrator, cache.inner)
OrdinaryDiffEqCore.accept_step_controller(integrator, cache::NotingCache, alg) =
    OrdinaryDiffEqCore.accept_step_controller(integrator, cache.inner, alg)
OrdinaryDiffEqCore.post_newton_controller!(integrator, cache::NotingCache, alg) =
    OrdinaryDiffEqCore.post_newton_controller!(integrator, cache.inner, alg)

function OrdinaryDiffEqCore.stepsize_controller!(integrator, cache::NotingCache, alg)
    q = OrdinaryDiffEqCore.stepsize_controller!(integrator, cache.inner, alg)
    note_attempt!(cache.field.tally, integrator.t, integrator.dt, OrdinaryDiffEqCore.get_EEst(cache))
    return q
end

function OrdinaryDiffEqCore.step_accept_controller!(integrator, cache::NotingCache, alg, q)
    count_accepted!(cache.field.tally, integrator.tprev, integrator.t)
    start_step!(cache.field, past_jump(cache.field, integrator.t))
    return OrdinaryDiffEqCore.step_accept_controller!(integrator, cache.inner, alg, q)
end

function OrdinaryDiffEqCore.step_reject_controller!(integrator, cache::NotingCache, alg)
    count_rejected!(cache.field.tally, integrator.t)
    OrdinaryDiffEqCore.step_reject_controller!(integrator, cache.inner, alg)
    return nothing
end

"""
    TorchdiffeqController(alg, order, scale, safety, ifactor, dfactor)

torchdiffeq 0.2's rule (`_optimal_step_size`): the next step is the last one times
`safety / error^(1/order)`, between `dfactor` (1 after an accepted step) and `ifactor`.

`scale` is torchdiffeq's error estimate divided by OrdinaryDiffEq's: the two libraries use
different embedded methods for Dormand and Prince's pair.
"""
struct TorchdiffeqController{B} <: AbstractController
    order::Int
    scale::Float64
    safety::Float64
    ifactor::Float64
    dfactor::Float64
    "Knobs that the solver reads of every controller."
    basic::B
end

TorchdiffeqController(alg, order, scale, safety, ifactor, dfactor) = TorchdiffeqController(
    order, scale, safety, ifactor, dfactor,
    OrdinaryDiffEqCore.resolve_basic((; qmin = dfactor, qmax = ifactor), alg, Float64)
)

mutable struct TorchdiffeqCache{C <: TorchdiffeqController, E} <: AbstractControllerCache
    const controller::C
    EEst::E
end

OrdinaryDiffEqCore.setup_controller_cache(_, _, c::TorchdiffeqController, ::Type{E}, _) where {E} =
    TorchdiffeqCache{typeof(c), E}(c, one(E))

# The solver stores its own estimate; torchdiffeq's is what decides, and what is reported.
OrdinaryDiffEqCore.set_EEst!(cache::TorchdiffeqCache{C, E}, value) where {C, E} =
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
