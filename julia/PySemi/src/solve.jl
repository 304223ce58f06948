# Forward solves, and what backward ones share with them.

using OrdinaryDiffEqLowOrderRK: OrdinaryDiffEqLowOrderRK, BS3, DP5
using OrdinaryDiffEqTsit5: OrdinaryDiffEqTsit5, AutoTsit5, Tsit5
using OrdinaryDiffEqVerner: OrdinaryDiffEqVerner, Vern7
using SciMLBase:
    CallbackSet, ContinuousCallback, DiscreteCallback, ODEProblem, ReturnCode, init, solve, step!, terminate!
using SciMLLogging: SciMLLogging

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
- `dt`: the first step's length, or nothing; it is of a type of its own, since the solvers are
  compiled for the options that are given.
"""
struct Settings{A, R, N, D <: Union{Nothing, Float64}}
    abstol::A
    reltol::R
    norm::N
    maxiters::Int
    controls::Controls
    jumps::Vector{Float64}
    steps::Vector{Float64}
    dt::D
end

Settings(abstol, reltol, norm, maxiters, controls, jumps, steps) = Settings(
    abstol, reltol, norm, maxiters, controls, jumps, steps,
    controls.first_step > 0 ? controls.first_step : nothing
)

"Packages that hold further algorithms, and are loaded when one is named that is not found before."
const ALGORITHM_PACKAGES = (
    "OrdinaryDiffEq",
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

algorithm_in(package, name) =
    isdefined(package, name) && is_algorithm(getfield(package, name)) ? getfield(package, name) : nothing

search_algorithm(name::Symbol) = Base.get!(() -> find_algorithm(name), ALGORITHMS_FOUND, name)

"Looking for one takes longer than many a solve."
const ALGORITHMS_FOUND = Dict{Symbol, Any}()

function find_algorithm(name::Symbol)
    for loaded in (OrdinaryDiffEqLowOrderRK, OrdinaryDiffEqTsit5, OrdinaryDiffEqVerner)
        found = algorithm_in(loaded, name)
        found === nothing || return found
    end
    for package in ALGORITHM_PACKAGES
        id = Base.identify_package(package)
        (id === nothing || Base.locate_package(id) === nothing) && continue
        found = algorithm_in(Base.require(id), name)
        found === nothing || return found
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
    (; abstol, reltol, norm, maxiters, jumps, steps, dt) = settings
    first = dt === nothing ? (;) : (; dt = sign(to - from) * dt)
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
solve_forward!(
    out, field::Field, u0, times, alg, settings; dense = false, log::Union{Nothing, StepLog} = nothing
) = solve_from!(out, field, u0, times, alg, settings, Val(dense), log)

function solve_from!(out, field::Field, u0, times, alg, settings, ::Val{dense}, log) where {dense}
    copyto!(view(out, :, 1), u0)
    length(times) == 1 && return Solved(nothing, alg, times, ReturnCode.Success)
    log === nothing || follow!(field, log)
    settings.controls.torchdiffeq &&
        return march_from!(out, field, u0, times, alg, settings, Val(dense), log)
    log === nothing || return solve_noting!(out, field, u0, times, alg, settings, log)
    problem = ODEProblem{true}(
        ode_function(field, alg), u0, (times[1], times[end]), field.memory.params
    )
    keep = dense ? (; save_everystep = true) : (; saveat = times, save_everystep = false, dense = false)
    solution = solve(
        problem, alg; common_options(settings, alg, field, times[1], times[end])..., keep...
    )
    count_unnoted!(field.tally, solution)
    if SciMLBase.successful_retcode(solution)
        for (i, t) in enumerate(times)
            i == 1 && continue
            dense ? solution(view(out, :, i), t) : copyto!(view(out, :, i), solution.u[i])
        end
    end
    return Solved(solution, alg, times, solution.retcode)
end

"The same where a log notes the steps, and the solution is only needed for the states at `times`."
function solve_noting!(out, field, u0, times, alg, settings, log)
    tspan = (times[1], times[end])
    options = common_options(settings, alg, field, tspan...)
    callback = noting(log, field)
    make() = init(
        ODEProblem{true}(ode_function(field, alg), u0, tspan, field.memory.params), alg;
        options..., callback, saveat = times, save_everystep = false, dense = false
    )
    function renew!(integrator)
        integrator.opts.callback = SciMLBase.CallbackSet(callback)
        (; controller, maxiters, tstops, d_discontinuities) = options
        dt = Base.get(options, :dt, nothing)
        return restart!(
            integrator, u0, settings, controller; maxiters, tstops, d_discontinuities, saveat = times, dt
        )
    end
    function finish(integrator)
        solution = SciMLBase.solve!(integrator)
        count_unnoted!(field.tally, solution)
        if SciMLBase.successful_retcode(solution)
            for i in 2:length(times)
                copyto!(view(out, :, i), solution.u[i])
            end
        end
        return solution.retcode
    end
    code = with_integrator(finish, make, renew!, field, alg, tspan, length(out))::ReturnCode.T
    return Solved(log, alg, times, code)
end

"The same by torchdiffeq's rules."
function march_from!(out, field, u0, times, alg, settings, ::Val{dense}, log) where {dense}
    f = ode_function(field, alg)
    # All that a backsolve starts from are the states at the times.
    states = dense || log !== nothing ? nothing : [copy(u0)]
    quartics = dense ? Quartics(times[1], u0) : nothing
    code = march!(f, u0, field.memory.params, times, alg, settings, field, log, quartics) do i, u
        copyto!(view(out, :, i), u)
        states === nothing || push!(states, copy(u))
    end
    log === nothing || return Solved(log, alg, times, code)
    problem = ODEProblem{true}(f, u0, (times[1], times[end]), field.memory.params)
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

"The gradient of a solve that made no step: all its states are the first one."
function stand_still!(y_bar, params_bar, cotangents)
    fill!(params_bar, 0)
    sum!(y_bar, cotangents)
    return ReturnCode.Success
end
