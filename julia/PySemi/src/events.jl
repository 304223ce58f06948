# Solves that end when a function of the state changes sign.

"""
    ForeignEvent(call, dense)

An event function of Python's: `call(t, pointer to y)`.
"""
struct ForeignEvent{T}
    call::Ptr{Cvoid}
    dense::Vector{T}
end

function (event::ForeignEvent{T})(u, t) where {T}
    copyto!(event.dense, u)
    value = GC.@preserve event ccall(event.call, Cdouble, (Cdouble, Ptr{T}), t, event.dense)
    # A Python exception cannot pass through here; it is kept there, and NaN answered.
    isnan(value) && throw(ForeignError())
    return value
end

"""
    solve_until!(event, out, field, u0, t0, direction, alg, settings)

Solve from `t0` on (back in time if `direction` is -1) until `event(u, t)` changes sign between two steps, as torchdiffeq looks
for it, and write the states at `t0` and at the event into the two columns of `out`.
"""
function solve_until!(event, out, field::Field, u0, t0, direction, alg, settings)
    copyto!(view(out, :, 1), u0)
    f = ode_function(field)
    if iszero(event(u0, t0))
        copyto!(view(out, :, 2), u0)
        return Solved(nothing, alg, [t0], ReturnCode.Success)
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
        callback = ending
    )
    state = solution.u[end]
    copyto!(view(out, :, 2), state)
    found = solution.retcode == ReturnCode.Terminated
    code = found ? ReturnCode.Success :
        solution.retcode == ReturnCode.Success ? ReturnCode.MaxIters : solution.retcode
    times = [t0, solution.t[end]]
    kept = SciMLBase.build_solution(
        ODEProblem{true}(f, u0, (t0, times[2]), field.memory.params), alg, times,
        [copy(u0), copy(state)]; retcode = ReturnCode.Success, dense = false
    )
    return Solved(kept, alg, times, code)
end
