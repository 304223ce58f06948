# torchdiffeq's adaptive stepping, on OrdinaryDiffEq's methods: the same steps in both
# languages. Source: torchdiffeq 0.2.5, _impl/rk_common.py, misc.py, interp.py, dopri5.py.

"""
    Twin(order, scale, middle, change, stages)

What torchdiffeq has that OrdinaryDiffEq's method of the same name has not.

- `order`: in the controller's exponent.
- `scale`: torchdiffeq's error estimate over OrdinaryDiffEq's.
- `middle`, `change`: the state in the middle of a step, for interpolation, is
  `y0 + change * (y1 - y0) + h * sum(middle .* stages)`.
- `stages`: of an integrator's cache, the first and the last slope among them.
"""
struct Twin{N, S}
    order::Int
    scale::Float64
    middle::NTuple{N, Float64}
    change::Float64
    stages::S
end

# Shampine's embedded method, which torchdiffeq uses, differs from Hairer's, in DP5, by a
# factor of 2/3. The weights of the middle are Shampine's too ("Some practical Runge-Kutta
# formulas", Math. Comp. 46, 1986). DP5 overwrites its second and third stage; the second has
# no weight, and the third is what y1 - y0 holds beside the others.
const DP5_MIDDLE = (
    6025192743 / 30085553152 / 2, 51252292925 / 65400821598 / 2, -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2, -1776094331 / 19743644256 / 2, 11237099 / 235043384 / 2,
)
const DP5_SOLUTION = (35 / 384, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
const DP5_CHANGE = DP5_MIDDLE[2] / DP5_SOLUTION[2]

const DP5_TWIN = Twin(
    5, 2 / 3,
    Tuple(DP5_MIDDLE[i] - DP5_CHANGE * DP5_SOLUTION[i] for i in (1, 3, 4, 5, 6)), DP5_CHANGE,
    c -> (c.k1, c.k4, c.k5, c.k6, c.k7),
)

twin(::DP5) = DP5_TWIN
twin(::BS3) = Twin(3, 1.0, (0.0, 0.5, 0.0), 0.0, c -> (c.fsalfirst, c.k2, c.k4))
twin(alg) = throw(ArgumentError("$(nameof(typeof(alg))) has no twin in torchdiffeq"))

"""
    first_step(f!, u0, p, t0, direction, order, abstol, reltol, norm)

Length of the first step (Hairer, Nørsett & Wanner I, section II.4, as torchdiffeq has it).
"""
function first_step(f!, u0, p, t0, direction, order, abstol, reltol, norm)
    f0, f1 = zero(u0), zero(u0)
    f!(f0, u0, p, t0)
    scale = @. abstol + abs(u0) * reltol
    d0 = Float64(norm(u0 ./ scale, t0))
    d1 = Float64(norm(f0 ./ scale, t0))
    h0 = d0 < 1.0e-5 || d1 < 1.0e-5 ? 1.0e-6 : 0.01 * d0 / d1
    dt = eltype(u0)(direction * h0)
    u1 = @. u0 + dt * f0
    f!(f1, u1, p, t0 + direction * h0)
    d2 = abs(Float64(norm((f1 .- f0) ./ scale, t0)) / h0)
    h1 = d1 <= 1.0e-15 && d2 <= 1.0e-15 ? max(1.0e-6, h0 * 1.0e-3) :
        (0.01 / max(d1, d2))^(1 / order)
    return min(100 * h0, abs(h1))
end

"""
    march!(visit, f, u0, p, times, alg, settings, field, log = nothing, quartics = nothing)

Step from `times[1]` past each later time, and call `visit(i, u)` with the state there,
interpolated as torchdiffeq does (a quartic through both ends' values and slopes and the
middle). A `log` notes the steps, `quartics` keep them. Returns the return code.
"""
function march!(visit, f, u0, p, times, alg, settings, field, log = nothing, quartics = nothing)
    (; abstol, reltol, norm, maxiters, controls, jumps, steps) = settings
    direction = sign(times[end] - times[1])
    like = twin(alg)
    start_step!(field, times[1])
    h = controls.first_step > 0 ? controls.first_step :
        first_step(f, u0, p, times[1], direction, like.order, abstol, reltol, norm)
    controller = Noting(
        TorchdiffeqController(alg, like.order, like.scale, controls.safety, controls.ifactor, controls.dfactor),
        field
    )
    # torchdiffeq steps over the last time and interpolates, so there is no end to stop at.
    horizon = times[end] + direction * max(1.0e6 * abs(times[end] - times[1]), 1.0)
    ahead(stops) = filter(s -> direction * s > direction * times[1], stops)
    dt, tspan = direction * h, (times[1], horizon)
    stops = (; maxiters = typemax(Int), tstops = ahead(steps), d_discontinuities = ahead(jumps))
    make() = init(
        ODEProblem{true}(f, u0, tspan, p), alg;
        dt, controller, abstol, reltol, internalnorm = norm, save_everystep = false,
        save_start = false, save_end = false, dense = false, calck = false, verbose = SILENT, stops...
    )
    renew!(integrator) = restart!(integrator, u0, settings, controller; saveat = (), dt, stops...)
    march(integrator) =
        march_through!(visit, integrator, like, u0, times, direction, maxiters, field, log, quartics)
    # Where steps are noted, the problem is the field's own.
    log === nothing && return march(make())
    return with_integrator(march, make, renew!, field, alg, tspan, length(u0))::ReturnCode.T
end

function march_through!(visit, integrator, like, u0, times, direction, maxiters, field, log, quartics)
    work = Interpolation(u0)
    attempts = field.tally.accepted + field.tally.rejected
    for i in 2:length(times)
        while direction * integrator.t < direction * times[i]
            step!(integrator)
            code = integrator.sol.retcode
            code in (ReturnCode.Default, ReturnCode.Success) || return code
            field.tally.accepted + field.tally.rejected - attempts > maxiters &&
                return ReturnCode.MaxIters
            # A NaN in the error is never accepted by torchdiffeq, nor does it end.
            isnan(field.tally.error_norm) && return ReturnCode.Unstable
            log === nothing || note_step!(log, integrator, field)
            quartics === nothing || keep_step!(quartics, work, integrator, like)
        end
        visit(i, interpolate!(work, integrator, like, times[i]))
    end
    return ReturnCode.Success
end

mutable struct Interpolation{V}
    const middle::V
    const out::V
    "From when to when the step went whose middle it is."
    step::Tuple{Float64, Float64}
end
Interpolation(u) = Interpolation(similar(u), similar(u), (NaN, NaN))

function interpolate!(work, integrator, like, t)
    t == integrator.t && return integrator.u
    t0, t1 = integrator.tprev, integrator.t
    f0, f1 = middle!(work, integrator, like)
    return quartic!(
        work.out, (t - t0) / (t1 - t0), t1 - t0, integrator.uprev, integrator.u, work.middle, f0, f1
    )
end

"The state in the middle of the last step into `work.middle`; returns the slopes at its ends."
function middle!(work, integrator, like)
    (; middle) = work
    T = eltype(middle)
    h, change = T(integrator.t - integrator.tprev), T(like.change)
    y0, y1 = integrator.uprev, integrator.u
    stages = like.stages(integrator.cache)
    step = (integrator.tprev, integrator.t)
    # Each step is looked at for all the times in it, and then no more.
    work.step == step && return first(stages), last(stages)
    work.step = step
    @. middle = y0 + change * (y1 - y0)
    for (weight, k) in zip(like.middle, stages)
        weight == 0 || (middle .+= (h * T(weight)) .* k)
    end
    return first(stages), last(stages)
end

"The quartic of a step of length `h` at the share `x` of it, by Horner's scheme over
torchdiffeq's coefficients (interp.py, _interp_fit)."
function quartic!(out, x, h, y0, y1, middle, f0, f1)
    T = eltype(out)
    x, h = T(x), T(h)
    @. out = y0 + x * (
        h * f0 + x * (
            h * (f1 - 4 * f0) - 11 * y0 - 5 * y1 + 16 * middle + x * (
                h * (5 * f0 - 3 * f1) + 18 * y0 + 14 * y1 - 32 * middle +
                    x * (2 * h * (f1 - f0) - 8 * (y1 + y0) + 16 * middle)
            )
        )
    )
    return out
end

"""
    Quartics(t0, u0)

A solution as a function of time, by torchdiffeq's quartics: times and states where steps end,
beginning with the start, and of each step the slopes at its ends (at a jump of f, two are of
one time) and the state in its middle.
"""
struct Quartics{V} <: SciMLBase.AbstractDiffEqInterpolation
    times::Vector{Float64}
    states::Vector{V}
    slopes::Vector{Tuple{V, V}}
    middles::Vector{V}
end
Quartics(t0, u0::V) where {V} = Quartics{V}([t0], [copy(u0)], [], [])

function keep_step!(quartics::Quartics, work, integrator, like)
    f0, f1 = middle!(work, integrator, like)
    push!(quartics.times, integrator.t)
    push!(quartics.states, copy(integrator.u))
    push!(quartics.slopes, (copy(f0), copy(f1)))
    push!(quartics.middles, copy(work.middle))
    return nothing
end

# All components, without derivatives; it is continuous.
function (quartics::Quartics)(out::AbstractArray, t::Number, ::Nothing, ::Type{Val{0}}, p, continuity = :left)
    (; times, states, slopes, middles) = quartics
    step = searchsortedlast(times, t; rev = times[end] < times[1])
    step = clamp(step, 1, length(slopes))
    h = times[step + 1] - times[step]
    f0, f1 = slopes[step]
    return quartic!(out, (t - times[step]) / h, h, states[step], states[step + 1], middles[step], f0, f1)
end
(quartics::Quartics)(t::Number, idxs, deriv, p, continuity = :left) =
    quartics(similar(quartics.states[1]), t, idxs, deriv, p, continuity)
