# The exact gradient of a discrete solution: its steps are made again, from stored states,
# and differentiated one by one, the last one first. Step sizes count as constants.

"""
    StepLog(like, capacity, method, jumps)

The steps of a forward solve: where each began and ended, and every `stride`-th state.

As many states as `capacity` are kept; when there are more, every other one goes, and the
steps between two that stay are made again when they are needed.
"""
mutable struct StepLog{V}
    const capacity::Int
    stride::Int
    const starts::Vector{Float64}
    const ends::Vector{Float64}
    states::Vector{V}
    const method::RungeKutta
    "Times at which f jumps."
    const jumps::Vector{Float64}
end

StepLog(like::V, capacity, method, jumps) where {V} =
    StepLog{V}(max(capacity, 2), 1, Float64[], Float64[], V[], method, jumps)

function note_step!(log::StepLog, from, to, y)
    n = length(log.starts)
    if n % log.stride == 0 && length(log.states) == log.capacity
        log.states = log.states[1:2:end]
        log.stride *= 2
    end
    n % log.stride == 0 && push!(log.states, copy(y))
    push!(log.starts, from)
    push!(log.ends, to)
    return nothing
end
function note_step!(log::StepLog, integrator, field)
    # The solver's own time is earlier where an event was found inside the step. Without step
    # size control (Euler) it is the only one.
    (; reached) = field.tally
    return note_step!(log, integrator.tprev, isnan(reached) ? integrator.t : reached, integrator.uprev)
end

"Has the solver note its steps: it asks for the callback's condition after each."
noting(log::StepLog, field) = DiscreteCallback(
    (_, _, integrator) -> (note_step!(log, integrator, field); false), terminate!;
    save_positions = (false, false)
)

"What one step needs: stages, their slopes, and the cotangents of these."
struct StepMemory{V}
    states::Vector{V}
    slopes::Vector{V}
    cotangents::Vector{V}
    used::Vector{Bool}
end

function StepMemory(like, stages)
    arrays() = [zero(like) for _ in 1:stages]
    return StepMemory(arrays(), arrays(), arrays(), zeros(Bool, stages))
end

"""
    pull_back!(y_bar, params_bar, field, log, times, cotangents)

Fill `y_bar` and `params_bar` with the gradient of `Σ cotangents .* y(times)` for the steps in
`log`. What lies between two steps' ends is differentiated through the interpolation that made it.
"""
function pull_back!(y_bar, params_bar, field, log, times, cotangents)
    fill!(params_bar, 0)
    λ = fill!(similar(y_bar), 0)
    memory = StepMemory(λ, nstages(log.method))
    observation = length(times)
    direction = sign(times[end] - times[1])
    segment = similar(log.states, 0)
    for checkpoint in length(log.states):-1:1
        numbers = remake!(segment, memory, field, log, checkpoint)
        for n in reverse(numbers)
            start, stop = log.starts[n], log.ends[n]
            # Those after the start belong to this step.
            inside = Tuple{Vector{Float64}, typeof(view(cotangents, :, 1))}[]
            while observation >= 2 && direction * (times[observation] - start) > 0
                cotangent = view(cotangents, :, observation)
                if times[observation] == stop
                    λ .+= cotangent
                else
                    Θ = (times[observation] - start) / (stop - start)
                    push!(inside, (log.method.between(Θ), cotangent))
                end
                observation -= 1
            end
            pull_back_step!(λ, params_bar, memory, field, log.method, segment[n - first(numbers) + 1], start, stop, inside)
            count_accepted!(field.tally, stop, start)
        end
    end
    y_bar .= λ .+ view(cotangents, :, 1)
    return nothing
end

"""
    interpolate_steps!(out, field, log, times)

Fill the columns of `out` with the states at `times`, which go the way that the solve went and lie
within it. Steps are made again for their slopes.
"""
function interpolate_steps!(out, field, log::StepLog, times)
    (; method, starts, ends) = log
    memory = StepMemory(first(log.states), nstages(method))
    segment, numbers = similar(log.states, 0), 1:0
    direction = sign(ends[1] - starts[1])
    i = 1
    while i <= length(times) && times[i] == starts[1]
        copyto!(view(out, :, i), log.states[1])
        i += 1
    end
    n = 1
    while i <= length(times)
        while direction * (times[i] - ends[n]) > 0
            n += 1
        end
        start, stop = starts[n], ends[n]
        last = i
        while last < length(times) && direction * (times[last + 1] - stop) <= 0
            last += 1
        end
        n in numbers || (numbers = remake!(segment, memory, field, log, cld(n, log.stride)))
        y = segment[n - first(numbers) + 1]
        combinations = map(view(times, i:last)) do t
            t == stop ? method.weights : method.between((t - start) / (stop - start))
        end
        plan_stages!(memory.used, method, map(weights -> (weights, nothing), combinations))
        make_stages!(memory, field, method, y, start, stop; all_slopes = true)
        for (j, weights) in zip(i:last, combinations)
            add_slopes!(copyto!(view(out, :, j), y), stop - start, weights, memory)
        end
        i = last + 1
    end
    return out
end

"""
Fill `segment` with the states at which the steps from a checkpoint on began, and return these
steps' numbers.
"""
function remake!(segment, memory, field, log, checkpoint)
    numbers = ((checkpoint - 1) * log.stride + 1):min(checkpoint * log.stride, length(log.starts))
    while length(segment) < length(numbers)
        push!(segment, similar(first(log.states)))
    end
    copyto!(segment[1], log.states[checkpoint])
    plan_stages!(memory.used, log.method, ())
    for i in 2:length(numbers)
        n = numbers[i - 1]
        make_stages!(memory, field, log.method, segment[i - 1], log.starts[n], log.ends[n]; all_slopes = true)
        h = log.ends[n] - log.starts[n]
        copyto!(segment[i], segment[i - 1])
        add_slopes!(segment[i], h, log.method.weights, memory)
    end
    return numbers
end

"Which stages the end of a step, and the points inside it, depend on."
function plan_stages!(used, method, inside)
    for i in eachindex(used)
        used[i] = method.weights[i] != 0 || any(((weights, _),) -> weights[i] != 0, inside)
    end
    for i in reverse(eachindex(used))
        used[i] || continue
        for (j, _) in method.rows[i]
            used[j] = true
        end
    end
    return nothing
end

"Evaluate the stages in use from `y` on; the slopes that no later stage needs only on demand."
function make_stages!(memory, field, method, y, start, stop; all_slopes)
    h = stop - start
    start_step!(field, past_jump(field, start))
    last_needed = all_slopes ? nstages(method) : last_source(memory.used, method)
    for i in eachindex(memory.used)
        memory.used[i] || continue
        state = copyto!(memory.states[i], y)
        for (j, a) in method.rows[i]
            add_scaled!(state, h * a, memory.slopes[j])
        end
        i > last_needed && continue
        evaluate!(field, FIELD, field.field, state, nothing, start + method.nodes[i] * h)
        copyto!(memory.slopes[i], field.memory.dy)
    end
    return nothing
end

"The last stage that another one in use is made of."
function last_source(used, method)
    last = 0
    for i in eachindex(used)
        used[i] || continue
        for (j, _) in method.rows[i]
            last = max(last, j)
        end
    end
    return last
end

add_scaled!(y::AbstractVector{T}, factor, x) where {T} = (c = T(factor); y .+= c .* x)

function add_slopes!(y, h, weights, memory)
    for i in eachindex(weights)
        weights[i] == 0 || add_scaled!(y, h * weights[i], memory.slopes[i])
    end
    return y
end

"""
Turn λ, the gradient of what follows a step with respect to its end, into that with respect to
its beginning at `y`. `inside` are pairs of weights and a cotangent for points between.
"""
function pull_back_step!(λ, params_bar, memory, field, method, y, start, stop, inside)
    h = stop - start
    (; used, states, cotangents) = memory
    plan_stages!(used, method, inside)
    make_stages!(memory, field, method, y, start, stop; all_slopes = false)
    for i in eachindex(used)
        used[i] || continue
        fill!(cotangents[i], 0)
        method.weights[i] == 0 || add_scaled!(cotangents[i], h * method.weights[i], λ)
        for (weights, cotangent) in inside
            weights[i] == 0 || add_scaled!(cotangents[i], h * weights[i], cotangent)
        end
    end
    for (_, cotangent) in inside
        λ .+= cotangent
    end
    for i in reverse(eachindex(used))
        used[i] || continue
        evaluate!(field, JOINT, field.joint, states[i], cotangents[i], start + method.nodes[i] * h)
        state_bar = field.memory.y_bar
        λ .+= state_bar
        params_bar .+= field.memory.params_bar
        for (j, a) in method.rows[i]
            add_scaled!(cotangents[j], h * a, state_bar)
        end
    end
    return nothing
end
