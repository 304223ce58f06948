# The exact gradient of a discrete solution: its steps are made again, from stored states,
# and differentiated one by one, the last one first. Step sizes count as constants.

"""
    StepLog(like, capacity, method, jumps)

The steps of a forward solve: where each began and ended, every `stride`-th state, and, where
there is room, the slopes of the stages.

As many states as `capacity` are kept; when there are more, every other one goes, and the
steps between two that stay are made again when they are needed. Slopes count as states, and
go first.
"""
mutable struct StepLog{V}
    const capacity::Int
    stride::Int
    const starts::Vector{Float64}
    const ends::Vector{Float64}
    states::Vector{V}
    "Of each step; empty where they are not known, and beyond the last for which there was room."
    const slopes::Vector{Vector{V}}
    keeps_slopes::Bool
    const trail::Trail{V}
    const method::RungeKutta
    "Times at which f jumps."
    const jumps::Vector{Float64}
end

function StepLog(like::V, capacity, method, jumps) where {V}
    # Of a step, and as many for what the solver asks afterwards.
    trail = Trail(like, 2 * method.own)
    return StepLog{V}(
        max(capacity, 2), 1, Float64[], Float64[], V[], Vector{V}[], true, trail, method, jumps
    )
end

"Have the field tell a log of its slopes."
follow!(field, log::StepLog) = (field.trail = log.trail; nothing)

function note_step!(log::StepLog, from, to, y)
    n = length(log.starts)
    if log.keeps_slopes
        (n + 1) * (1 + log.method.own) > log.capacity && forget_slopes!(log)
        log.keeps_slopes && push!(log.slopes, slopes_of(log.trail, log.method, from, to))
    end
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

forget_slopes!(log) = (empty!(log.slopes); log.keeps_slopes = false; nothing)

"""
The slopes of the stages of a step that has just been made, if the evaluations at its stages'
times are among the latest, one after the other: not where a rejected attempt went before, whose
first stage is further back. An interpolant, or an estimate of the error, may have taken more
evaluations after them.
"""
function slopes_of(trail::Trail{V}, method, from, to) where {V}
    (; own) = method
    for before in (trail.count - own):-1:(trail.count - 2 * own)
        are_stages(trail, before, method, from, to) || continue
        return [copy(noted(trail, before + i)[2]) for i in 1:own]
    end
    return V[]
end

"Whether the evaluations after that of number `before` were at the times of the stages."
function are_stages(trail, before, method, from, to)
    return all(1:(method.own)) do i
        found = noted(trail, before + i)
        found === nothing && return false
        time, expected = first(found), from + method.nodes[i] * (to - from)
        # At a jump, time is an ulp later.
        return abs(time - expected) <= 8 * eps(max(abs(from), abs(to)))
    end
end

"Has the solver note its steps: it asks for the callback's condition after each."
noting(log::StepLog, field) = DiscreteCallback(
    (_, _, integrator) -> (note_step!(log, integrator, field); false), terminate!;
    save_positions = (false, false)
)

"What one step needs: stages, their slopes, and the cotangents of the stages."
struct StepMemory{V}
    states::Vector{V}
    slopes::Vector{V}
    bars::Vector{V}
    "Of one stage's slope."
    cotangent::V
    used::Vector{Bool}
end

function StepMemory(like, stages)
    arrays() = [zero(like) for _ in 1:stages]
    return StepMemory(arrays(), arrays(), arrays(), zero(like), zeros(Bool, stages))
end

"""
    pull_back!(y_bar, params_bar, field, log, times, cotangents)

Fill `y_bar` and `params_bar` with the gradient of `Σ cotangents .* y(times)` for the steps in
`log`. What lies between two steps' ends is differentiated through the interpolation that made it.
"""
function pull_back!(y_bar, params_bar, field, log, times, cotangents)
    fill!(field.memory.params_bar, 0)
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
            inside = Tuple{Combination, typeof(view(cotangents, :, 1))}[]
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
            pull_back_step!(λ, memory, field, log, n, segment[n - first(numbers) + 1], inside)
            count_accepted!(field.tally, stop, start)
        end
    end
    y_bar .= λ .+ view(cotangents, :, 1)
    copyto!(params_bar, field.memory.params_bar)
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
        plan_stages!(memory.used, method, combinations)
        make_stages!(memory, field, log, n, y; all_slopes = true)
        for (j, weights) in zip(i:last, combinations)
            add_combination!(copyto!(view(out, :, j), y), stop - start, weights, memory.slopes)
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
        make_stages!(memory, field, log, n, segment[i - 1]; all_slopes = true)
        h = log.ends[n] - log.starts[n]
        add_combination!(copyto!(segment[i], segment[i - 1]), h, log.method.weights, memory.slopes)
    end
    return numbers
end

"Which stages the end of a step, and what else is combined of its slopes, depend on."
function plan_stages!(used, method, combinations)
    fill!(used, false)
    mark!(used, method.weights)
    foreach(combination -> mark!(used, combination), combinations)
    for i in reverse(eachindex(used))
        used[i] || continue
        for (j, _) in method.rows[i]
            used[j] = true
        end
    end
    return nothing
end

"""
Make the stages in use of the step of number `n`, which began at `y`. f is evaluated where the
slope is not known, and where a later stage needs it, or `all_slopes` are asked for.
"""
function make_stages!(memory, field, log, n, y; all_slopes)
    (; method) = log
    (; used, states, slopes) = memory
    start, h = log.starts[n], log.ends[n] - log.starts[n]
    known = n <= length(log.slopes) ? log.slopes[n] : similar(log.states, 0)
    foreach(copyto!, slopes, known)
    start_step!(field, past_jump(field, start))
    last_needed = all_slopes ? nstages(method) : last_source(used, method)
    for i in eachindex(used)
        used[i] || continue
        add_combination!(copyto!(states[i], y), h, method.rows[i], slopes)
        length(known) < i <= last_needed || continue
        evaluate!(field, FIELD, field.field, states[i], nothing, start + method.nodes[i] * h)
        copyto!(slopes[i], field.memory.dy)
    end
    return nothing
end

function mark!(used, combination)
    for (i, _) in combination
        used[i] = true
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

"""
    add_combination!(y, h, combination, xs)

`y .+= h Σ c_i x_i`, four of them at a time: where states are small, to go through memory once
for each costs about as much as f.
"""
function add_combination!(y::AbstractVector{T}, h, combination, xs) where {T}
    term(k) = ((i, c) = combination[k]; (T(h * c), xs[i]))
    k, n = 1, length(combination)
    while k <= n
        left = n - k + 1
        a, p = term(k)
        if left == 1
            y .+= a .* p
        elseif left == 2
            b, q = term(k + 1)
            y .+= a .* p .+ b .* q
        elseif left == 3
            (b, q), (c, r) = term(k + 1), term(k + 2)
            y .+= a .* p .+ b .* q .+ c .* r
        else
            (b, q), (c, r), (d, s) = term(k + 1), term(k + 2), term(k + 3)
            y .+= a .* p .+ b .* q .+ c .* r .+ d .* s
        end
        k += 4
    end
    return y
end

"""
Turn λ, the gradient of what follows the step of number `n` with respect to its end, into that
with respect to its beginning at `y`; dL/dθ is added up in the field's memory. `inside` are
pairs of weights and a cotangent for points between.
"""
function pull_back_step!(λ, memory, field, log, n, y, inside)
    (; method) = log
    (; used, states, bars, cotangent) = memory
    start, h = log.starts[n], log.ends[n] - log.starts[n]
    plan_stages!(used, method, map(first, inside))
    make_stages!(memory, field, log, n, y; all_slopes = false)
    for i in reverse(eachindex(used))
        if !used[i]
            fill!(bars[i], 0)
            continue
        end
        cotangent .= eltype(λ)(h * weight_of(method.weights, i)) .* λ
        for (weights, at_point) in inside
            weight = weight_of(weights, i)
            weight == 0 || (cotangent .+= eltype(λ)(h * weight) .* at_point)
        end
        add_combination!(cotangent, h, method.columns[i], bars)
        reverse!(field, states[i], cotangent, start + method.nodes[i] * h)
        copyto!(bars[i], field.memory.y_bar)
    end
    for (_, at_point) in inside
        λ .+= at_point
    end
    for i in eachindex(used)
        used[i] && (λ .+= bars[i])
    end
    return nothing
end

"The factor of the `i`th in a combination."
function weight_of(combination, i)
    for (j, weight) in combination
        j == i && return weight
    end
    return 0.0
end
