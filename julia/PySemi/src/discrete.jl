# The exact gradient of a discrete solution: its steps are made again, from stored states,
# and differentiated one by one, the last one first. Step sizes count as constants.

"""
    StepLog(field, capacity, method, jumps)

The steps of a forward solve: where each began and ended, every `stride`-th state, and, where
there is room, the stages.

As much as `capacity` states is kept. Stages take at most half of that, and are kept of the first
steps then. When there are more states than the rest can hold, every other one goes, and the steps
between two that stay are made again when they are needed.
"""
mutable struct StepLog{V}
    const capacity::Int
    stride::Int
    const starts::Vector{Float64}
    const ends::Vector{Float64}
    states::Vector{V}
    "Of each step; empty where they are not known, and beyond the last for which there was room."
    const stages::Vector{Vector{Stage{V}}}
    keeps_stages::Bool
    "What a step's stages take of the capacity."
    const stages_size::Float64
    const trail::Trail{V}
    "What is to be given back."
    const borrowed::Vector{Stage{V}}
    const method::RungeKutta
    "Times at which f jumps."
    const jumps::Vector{Float64}
end

function StepLog(field::Field{T, V}, capacity, method, jumps) where {T, V}
    # Of three attempts at a step, or of fewer and what the solver asks afterwards.
    trail = Trail(field.pool, 3 * method.own)
    each = 1 + length(field.recorded) / max(nstates(field), 1)
    return StepLog{V}(
        max(capacity, 2), 1, Float64[], Float64[], V[], Vector{Stage{V}}[], true, method.own * each, trail,
        Stage{V}[], method, jumps
    )
end

"Have the field tell a log of its evaluations."
follow!(field, log::StepLog) = (field.trail = log.trail; nothing)

"""
Let go of all stages, whose memory other solves use then; what they served for is computed again if
it is asked for.
"""
function release!(log::StepLog)
    (; trail, borrowed) = log
    (; pool, stages, taken) = trail
    Base.@lock pool.lock begin
        for i in eachindex(stages)
            # Those that are taken are among the borrowed.
            taken[i] || push!(pool.spare, stages[i])
        end
        # The first of them, which a pullback comes to last, are the next solve's first.
        for i in reverse(eachindex(borrowed))
            push!(pool.spare, borrowed[i])
        end
    end
    empty!(stages)
    empty!(borrowed)
    empty!(log.stages)
    log.keeps_stages = false
    return nothing
end

"Let go of all that a log holds; the field's integrator may know of the log until the next solve."
discard!(log::StepLog) = (release!(log); empty!(log.states); nothing)
discard!(_) = nothing

function note_step!(log::StepLog, from, to, y)
    n = length(log.starts)
    log.keeps_stages &= (n + 1) * log.stages_size <= log.capacity / 2
    log.keeps_stages && push!(log.stages, take_stages!(log, from, to))
    room = log.capacity - ceil(Int, length(log.stages) * log.stages_size)
    if n % log.stride == 0 && length(log.states) >= max(room, 2)
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

"""
The stages of a step that has just been made, if the evaluations at their times are among the
latest: one after the other, but for attempts at the step that were rejected after the first. An
interpolant, or an estimate of the error, may have taken more evaluations after them.
"""
function take_stages!(log::StepLog{V}, from, to) where {V}
    (; trail, method) = log
    for last in (trail.count):-1:(trail.count - method.own)
        is_attempt(trail, last, method, from, to - from) || continue
        first = first_stage(trail, last - method.own + 1, method, from, to - from)
        # A solve's first evaluation is at its start; another, to choose a step size, may follow.
        first == 0 && isempty(log.starts) && is_time(time_of(trail, 1), from, from, 0.0) && (first = 1)
        first == 0 && continue
        stages = Vector{Stage{V}}(undef, method.own)
        for i in eachindex(stages)
            stages[i] = take_stage!(log, i == 1 ? first : last - method.own + i)
        end
        return stages
    end
    return Stage{V}[]
end

"Whether the evaluations up to number `last` were those of a step's stages after the first."
function is_attempt(trail, last, method, from, h)
    (; own, nodes) = method
    return all(i -> is_time(time_of(trail, last - own + i), from + nodes[i] * h, from, h), 2:own)
end

# At a jump, time is an ulp later.
is_time(t, expected, from, h) = abs(t - expected) <= 8 * eps(max(abs(from), abs(from + h)))

"""
The number of the first evaluation of a step of length `h`, if that is `i`, or if only attempts at a
longer step came after it, up to `i`; else 0.
"""
function first_stage(trail, i, method, from, h)
    (; own, nodes) = method
    while true
        t = time_of(trail, i)
        isnan(t) && return 0
        is_time(t, from, from, 0.0) && return i
        (own == 1 || nodes[own] == 0) && return 0
        longer = (t - from) / nodes[own]
        longer / h > 1 + sqrt(eps()) && is_attempt(trail, i, method, from, longer) || return 0
        h = longer
        i -= own - 1
    end
end

"The `i`th evaluation of all, which the trail leaves alone from now on."
function take_stage!(log, i)
    (; trail) = log
    place = place_of(trail, i)::Int
    if !trail.taken[place]
        trail.taken[place] = true
        push!(log.borrowed, trail.stages[place])
    end
    return trail.stages[place]
end

"Has the solver note its steps: it asks for the callback's condition after each."
noting(log::StepLog, field) = DiscreteCallback(
    (_, _, integrator) -> (note_step!(log, integrator, field); false), terminate!;
    save_positions = (false, false)
)

"What one step needs: its stages, and the cotangents of their states."
struct StepMemory{V}
    state::V
    "The gradient with respect to where a step ends."
    λ::V
    "Of each stage."
    slopes::Vector{V}
    records::Vector{V}
    "For those that are made again."
    own::Vector{Stage{V}}
    bars::Vector{V}
    used::Vector{Bool}
    "Where the steps since a checkpoint began."
    segment::Vector{V}
    "What one stage has to do with the points inside of a step."
    shares::Combination
end

function StepMemory(field::Field{T, V}, nstages) where {T, V}
    (; y, dy) = field.memory
    return StepMemory{V}(
        similar(y), similar(y), fill(dy, nstages), fill(dy, nstages), Stage{V}[],
        [similar(y) for _ in 1:nstages], zeros(Bool, nstages), V[], Combination()
    )
end

"That of the field's last solve, if it was of a method with as many stages."
function step_memory(field::Field{T, V}, nstages) where {T, V}
    kept = field.step_memory
    kept isa StepMemory{V} && length(kept.used) == nstages && return kept
    memory = StepMemory(field, nstages)
    nstates(field) <= MOST_KEPT && (field.step_memory = memory)
    return memory
end

"Memory for the `i`th stage to be made again."
function own_stage!(memory, field, i)
    while length(memory.own) < i
        push!(memory.own, borrow!(field.pool))
    end
    return memory.own[i]
end

"Call `act` on a [`StepMemory`](@ref), whose stages other solves use afterwards."
function with_memory(act, field, log)
    memory = step_memory(field, nstages(log.method))
    try
        return act(memory)
    finally
        isempty(memory.own) || give_back!(field.pool, memory.own)
        empty!(memory.own)
        empty!(memory.segment)
        foreach(arrays -> fill!(arrays, field.memory.dy), (memory.slopes, memory.records))
    end
end

"""
    pull_back!(y_bar, params_bar, field, log, times, cotangents)

Fill `y_bar` and `params_bar` with the gradient of `Σ cotangents .* y(times)` for the steps in
`log`. What lies between two steps' ends is differentiated through the interpolation that made it.
"""
pull_back!(y_bar, params_bar, field, log, times, cotangents) = with_memory(field, log) do memory
    fill!(field.memory.params_bar, 0)
    forget!(field.gather)
    (; segment, λ) = memory
    fill!(λ, 0)
    observation = length(times)
    direction = sign(times[end] - times[1])
    # Of points inside of a step: the weights of its stages, and the cotangent.
    inside, at_points = Combination[], typeof(view(cotangents, :, 1))[]
    for checkpoint in length(log.states):-1:1
        numbers = remake!(segment, memory, field, log, checkpoint)
        for n in reverse(numbers)
            start, stop = log.starts[n], log.ends[n]
            # Those after the start belong to this step.
            foreach(empty!, (inside, at_points))
            while observation >= 2 && direction * (times[observation] - start) > 0
                cotangent = view(cotangents, :, observation)
                if times[observation] == stop
                    λ .+= cotangent
                else
                    Θ = (times[observation] - start) / (stop - start)
                    push!(inside, log.method.between(Θ))
                    push!(at_points, cotangent)
                end
                observation -= 1
            end
            y = segment[n - first(numbers) + 1]
            pull_back_step!(λ, memory, field, log, n, y, inside, at_points)
            count_accepted!(field.tally, stop, start)
        end
    end
    gather!(field.gather)
    y_bar .= λ .+ view(cotangents, :, 1)
    params_bar === field.memory.params_bar || copyto!(params_bar, field.memory.params_bar)
    return nothing
end

"""
    interpolate_steps!(out, field, log, times)

Fill the columns of `out` with the states at `times`, which go the way that the solve went and lie
within it. Steps are made again for their slopes.
"""
interpolate_steps!(out, field, log::StepLog, times) = with_memory(field, log) do memory
    (; method, starts, ends) = log
    segment, numbers = memory.segment, 1:0
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
        make_stages!(memory, field, log, n, y; records = false)
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
    state = log.states[checkpoint]
    isempty(segment) ? push!(segment, state) : (segment[1] = state)
    length(numbers) == 1 && return numbers
    while length(segment) < length(numbers)
        push!(segment, similar(state))
    end
    plan_stages!(memory.used, log.method, ())
    for i in 2:length(numbers)
        n = numbers[i - 1]
        make_stages!(memory, field, log, n, segment[i - 1]; records = false)
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
Have in memory the slopes, and the `records` if they are wanted, of the stages in use of the step of
number `n`, which began at `y`: those that are kept, and what else is made again.
"""
function make_stages!(memory, field, log, n, y; records)
    (; method) = log
    (; used, state, slopes) = memory
    start, h = log.starts[n], log.ends[n] - log.starts[n]
    kept = n <= length(log.stages) ? log.stages[n] : memory.own[1:0]
    start_step!(field, past_jump(field, start))
    for i in eachindex(used)
        used[i] || continue
        if i <= length(kept)
            slopes[i], memory.records[i] = kept[i].slope, kept[i].record
            continue
        end
        add_combination!(copyto!(state, y), h, method.rows[i], slopes)
        program = records ? field.record : field.field
        evaluate!(field, FIELD, program, state, nothing, start + method.nodes[i] * h)
        stage = own_stage!(memory, field, i)
        slopes[i] = copyto!(stage.slope, field.memory.dy)
        records && (memory.records[i] = copyto!(stage.record, field.recorded))
    end
    return nothing
end

function mark!(used, combination)
    for (i, _) in combination
        used[i] = true
    end
    return nothing
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
        if left == 1
            add!(y, term(k)...)
        elseif left == 2
            add!(y, term(k)..., term(k + 1)...)
        elseif left == 3
            add!(y, term(k)..., term(k + 1)..., term(k + 2)...)
        else
            add!(y, term(k)..., term(k + 1)..., term(k + 2)..., term(k + 3)...)
        end
        k += 4
    end
    return y
end

add!(y, a, p) = y .+= a .* p
add!(y, a, p, b, q) = y .+= a .* p .+ b .* q
add!(y, a, p, b, q, c, r) = y .+= a .* p .+ b .* q .+ c .* r
add!(y, a, p, b, q, c, r, d, s) = y .+= a .* p .+ b .* q .+ c .* r .+ d .* s
scale!(y, a, p) = y .= a .* p

"A vector or a column of a matrix."
const Dense{T} = Union{
    Vector{T}, SubArray{T, 1, Matrix{T}, Tuple{Base.Slice{Base.OneTo{Int}}, Int}, true},
}

# Broadcasts look first whether arrays overlap, and at their sizes, for longer than small ones take.
function add!(y::Vector{T}, a::T, p::Dense{T}) where {T}
    @inbounds @simd ivdep for i in eachindex(y)
        y[i] += a * p[i]
    end
end
function add!(y::Vector{T}, a::T, p::Dense{T}, b::T, q::Dense{T}) where {T}
    @inbounds @simd ivdep for i in eachindex(y)
        y[i] += a * p[i] + b * q[i]
    end
end
function add!(y::Vector{T}, a::T, p::Dense{T}, b::T, q::Dense{T}, c::T, r::Dense{T}) where {T}
    @inbounds @simd ivdep for i in eachindex(y)
        y[i] += a * p[i] + b * q[i] + c * r[i]
    end
end
function add!(y::Vector{T}, a::T, p::Dense{T}, b::T, q::Dense{T}, c::T, r::Dense{T}, d::T, s::Dense{T}) where {T}
    @inbounds @simd ivdep for i in eachindex(y)
        y[i] += a * p[i] + b * q[i] + c * r[i] + d * s[i]
    end
end
function scale!(y::Vector{T}, a::T, p::Dense{T}) where {T}
    @inbounds @simd ivdep for i in eachindex(y)
        y[i] = a * p[i]
    end
end

"""
Turn λ, the gradient of what follows the step of number `n` with respect to its end, into that
with respect to its beginning at `y`; dL/dθ is added up in the field's memory. `inside` are the
weights of points between, `at_points` their cotangents.
"""
function pull_back_step!(λ, memory, field, log, n, y, inside, at_points)
    (; method) = log
    (; used, bars, shares) = memory
    (; cotangent) = field.memory
    start, h = log.starts[n], log.ends[n] - log.starts[n]
    plan_stages!(used, method, inside)
    make_stages!(memory, field, log, n, y; records = true)
    for i in reverse(eachindex(used))
        if !used[i]
            fill!(bars[i], 0)
            continue
        end
        scale!(cotangent, eltype(λ)(h * weight_of(method.weights, i)), λ)
        add_combination!(cotangent, h, shares_of!(shares, i, inside), at_points)
        add_combination!(cotangent, h, method.columns[i], bars)
        reverse!(field, memory.records[i], start + method.nodes[i] * h)
        copyto!(bars[i], field.memory.y_bar)
    end
    for at_point in at_points
        add!(λ, one(eltype(λ)), at_point)
    end
    for i in eachindex(used)
        used[i] && add!(λ, one(eltype(λ)), bars[i])
    end
    return nothing
end

"Into `shares`: the factor of the `i`th in each of the combinations that have it."
function shares_of!(shares, i, combinations)
    empty!(shares)
    for (j, combination) in enumerate(combinations)
        weight = weight_of(combination, i)
        weight == 0 || push!(shares, j => weight)
    end
    return shares
end

"The factor of the `i`th in a combination."
function weight_of(combination, i)
    for (j, weight) in combination
        j == i && return weight
    end
    return 0.0
end
