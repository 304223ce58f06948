# Solves that end when a function of the state changes sign.

"The event function has no value at the time `t`."
struct EventIsNaN <: Exception
    t::Float64
end
Base.showerror(io::IO, e::EventIsNaN) = print(io, "the event function is NaN at t = ", e.t)

"""
    TapeEvent(field, u0, t0)

An event function whose values the program `field.field` computes. Of several, the first to
change sign ends the solve, as in torchdiffeq: each is made positive at the start, `u0` at
`t0`, and the smallest counts.
"""
struct TapeEvent{T, V <: AbstractVector{T}}
    field::Field{T, V}
    signs::V
    signed::V
end

function TapeEvent(field::Field{T, V}, u0, t0) where {T, V}
    signs = sign.(event_values!(field, u0, t0))
    return TapeEvent{T, V}(field, signs, similar(signs))
end

function event_values!(field::Field, u, t)
    memory = field.memory
    copyto!(memory.y, u)
    fill!(memory.t, t)
    field.field()
    return memory.dy
end

function (event::TapeEvent)(u, t)
    event.signed .= event.signs .* event_values!(event.field, u, t)
    return event_value(minimum(event.signed), t)
end

"""
    ForeignEvent(call, dense)

An event function of Python's: `call(t, pointer to y)`. A Python exception cannot pass
through here; it is kept there, and NaN answered.
"""
struct ForeignEvent{T}
    call::Ptr{Cvoid}
    dense::Vector{T}
end

function (event::ForeignEvent{T})(u, t) where {T}
    copyto!(event.dense, u)
    value = GC.@preserve event ccall(event.call, Cdouble, (Cdouble, Ptr{T}), t, event.dense)
    return event_value(value, t)
end

"What a root finder is told: it cannot do with NaN."
function event_value(value, t)
    isnan(value) && throw(EventIsNaN(t))
    return Float64(value)
end

"""
    solve_until!(event, out, field, u0, t0, direction, alg, settings, log = nothing)

Solve from `t0` on (back in time if `direction` is -1) until `event(u, t)` changes sign
between two steps, as torchdiffeq looks for it, and write the states at `t0` and at the event
into the two columns of `out`. A `log` notes the steps, for the discrete adjoint.
"""
function solve_until!(event, out, field::Field, u0, t0, direction, alg, settings, log = nothing)
    copyto!(view(out, :, 1), u0)
    f = ode_function(field, alg)
    log === nothing || follow!(field, log)
    if iszero(event(u0, t0))
        copyto!(view(out, :, 2), u0)
        return Solved(nothing, alg, [t0, t0], ReturnCode.Success)
    end
    # Far away: only the event ends the solve, or the budget of steps.
    horizon = t0 + direction * max(1.0e6, abs(t0) * 1.0e6)
    problem = ODEProblem{true}(f, u0, (t0, horizon), field.memory.params)
    ending = ContinuousCallback(
        (u, t, _) -> event(u, t), terminate!; save_positions = (false, false), interp_points = 0
    )
    solution = solve(
        problem, alg; common_options(settings, alg, field, problem.tspan...)...,
        save_everystep = false, save_start = false,
        callback = log === nothing ? ending : CallbackSet(ending, noting(log, field))
    )
    count_unnoted!(field.tally, solution)
    state = solution.u[end]
    copyto!(view(out, :, 2), state)
    found = solution.retcode == ReturnCode.Terminated
    code = found ? ReturnCode.Success :
        solution.retcode == ReturnCode.Success ? ReturnCode.MaxIters : solution.retcode
    times = [t0, solution.t[end]]
    log === nothing || return Solved(log, alg, times, code)
    kept = SciMLBase.build_solution(
        ODEProblem{true}(f, u0, (t0, times[2]), field.memory.params), alg, times,
        [copy(u0), copy(state)]; retcode = ReturnCode.Success, dense = false
    )
    return Solved(kept, alg, times, code)
end
