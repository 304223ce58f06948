# The vector field as solvers and adjoints see it.

using SciMLBase: ODEFunction

"An evaluation of f that is kept: its value, and what it left for its pullback."
struct Stage{V}
    slope::V
    record::V
end

"""
    Pool(slope, record)

Stages like these, which are used again: one is had by [`borrow!`](@ref), and those that nobody
needs any more come back by [`give_back!`](@ref).
"""
struct Pool{V}
    like::Stage{V}
    spare::Vector{Stage{V}}
    # Solutions are let go of while other threads solve.
    lock::Threads.SpinLock
end
Pool(slope::V, record::V) where {V} = Pool{V}(Stage{V}(slope, record), Stage{V}[], Threads.SpinLock())

function borrow!(pool::Pool{V}) where {V}
    found = Base.@lock pool.lock (isempty(pool.spare) ? nothing : pop!(pool.spare))
    return found === nothing ? new_stage(pool) : found
end

new_stage(pool::Pool{V}) where {V} = Stage{V}(similar(pool.like.slope), similar(pool.like.record))

"As many as `n`, in the order in which they would be had one by one."
function borrow!(pool::Pool{V}, n) where {V}
    stages = Vector{Stage{V}}(undef, n)
    found = Base.@lock pool.lock begin
        count = min(n, length(pool.spare))
        for i in 1:count
            stages[i] = pop!(pool.spare)
        end
        count
    end
    for i in (found + 1):n
        stages[i] = new_stage(pool)
    end
    return stages
end

function give_back!(pool::Pool, stages)
    Base.@lock pool.lock append!(pool.spare, stages)
    return nothing
end

"""
    Trail(pool, n)

The latest `n` evaluations of f by a solver, and when they were.
"""
mutable struct Trail{V}
    const pool::Pool{V}
    const times::Vector{Float64}
    const stages::Vector{Stage{V}}
    "Whether somebody else keeps what lies at a place."
    const taken::Vector{Bool}
    "How many there were; the `i`th of all lies at `mod1(i, n)`."
    count::Int
end
Trail(pool::Pool{V}, n) where {V} =
    Trail{V}(pool, fill(NaN, n), borrow!(pool, n), fill(false, n), 0)

function note!(trail::Trail, t, slope, record)
    trail.count += 1
    place = mod1(trail.count, length(trail.times))
    if trail.taken[place]
        trail.stages[place] = borrow!(trail.pool)
        trail.taken[place] = false
    end
    trail.times[place] = t
    stage = trail.stages[place]
    copyto!(stage.slope, slope)
    copyto!(stage.record, record)
    return nothing
end

"Place of the `i`th evaluation of all; of those that are forgotten, nothing."
function place_of(trail::Trail, i)
    n = length(trail.times)
    return trail.count - n < i <= trail.count && i > 0 ? mod1(i, n) : nothing
end

"When the `i`th evaluation of all was; of those that are forgotten, NaN."
function time_of(trail::Trail, i)
    place = place_of(trail, i)
    return place === nothing ? NaN : trail.times[place]
end

"""
Numbers of a state for which a field keeps memory between solves: a dozen states or two. Of solves of
larger ones, to make it anew is a small part.
"""
const MOST_KEPT = 2^14

"An integrator, for what, and what made it, a function whose type says of what types all is."
struct Kept
    integrator::Any
    algorithm::Any
    tspan::Tuple{Float64, Float64}
    maker::DataType
end

"""
    Field{T, V}

A vector field with memory and its programs. Solvers ask for f, λᵀ∂f/∂y and λᵀ∂f/∂θ one
after the other at the same point: the first question runs the program that answers all that
will be asked there, the others read its results.

Its type says nothing of the model, so that the solvers are compiled once.
"""
mutable struct Field{T, V <: AbstractVector{T}}
    const memory::Memory{T, V}
    const field::Thunk
    const pullback::Thunk
    const joint::Thunk
    "Computes f, and what `reverse` needs of this evaluation."
    const record::Thunk
    "Computes λᵀ∂f/∂y from `recorded`, t and λ; with `gather`, adds λᵀ∂f/∂θ to what memory holds."
    const reverse::Thunk
    const recorded::V
    const gather::Gather
    "Of evaluations that are kept."
    const pool::Pool{V}
    const roots::Any
    const tally::Tally
    "What has been computed at the point in memory."
    done::Level
    at::Float64
    "Whether `recorded` is of that point."
    is_recorded::Bool
    "Whether λᵀ∂f/∂θ will be asked for wherever λᵀ∂f/∂y is."
    wants_params::Bool
    "Times at which f jumps. A step that ends there wants f on the near side..."
    jumps::Vector{Float64}
    "...and one that starts there, on the far side: where the present step started."
    from::Float64
    direction::Int
    "See `check_stop`; null where nobody stops it."
    stop::Ptr{Stop}
    "The latest evaluations, where they are followed."
    trail::Union{Nothing, Trail{V}}
    "What `ode_function` made of it."
    const functions::Vector{Any}
    "Of the last backward solve: see `StepMemory`."
    step_memory::Any
    "The integrator of the last solve, if it may be used again: see `with_integrator`."
    kept::Union{Nothing, Kept}
end

"""
A field whose pullback computes anew what it needs, from the state that was recorded; or by the
programs that are given.
"""
function Field(
        memory::Memory{T, V}, field, pullback, joint, roots;
        record = field, reverse = thunk(AddingJoint(memory, joint)), recorded = memory.y, gather = Gather()
    ) where {T, V}
    return Field{T, V}(
        memory, field, pullback, joint, record, reverse, recorded, gather, Pool(memory.dy, recorded), roots,
        Tally(), NOTHING, NaN, false, true, Float64[], NaN, 1, C_NULL, nothing, [],
        nothing, nothing
    )
end

function Field(tape::Tape)
    (; memory, programs) = tape
    program(name) = thunk(TapeProgram(Base.get(programs, name, Thunk[])))
    field = program("field")
    return Field(
        memory, field, program("pullback"), program("joint"), tape;
        record = haskey(programs, "record") ? program("record") : field, reverse = program("reverse"),
        recorded = tape.record, tape.gather
    )
end

"The program \"reverse\" of a field that has none of its own."
struct AddingJoint{V} <: Function
    params_bar::V
    sum::V
    joint::Thunk
end
AddingJoint(memory::Memory, joint) = AddingJoint(memory.params_bar, similar(memory.params_bar), joint)

function (program::AddingJoint)()
    (; params_bar, sum, joint) = program
    copyto!(sum, params_bar)
    joint()
    params_bar .+= sum
    return nothing
end

"Whether the field can say λᵀ∂f/∂y; a tape for forward solves alone cannot."
has_products(field::Field) = !(field.roots isa Tape) || haskey(field.roots.programs, "pullback")

"A program that Python runs: `call(level, t)` on the memory, answering 0."
struct ForeignProgram{T} <: Function
    call::Ptr{Cvoid}
    level::Level
    t::Vector{T}
end

function (program::ForeignProgram)()
    answer = ccall(program.call, Int32, (Int32, Float64), Int(program.level), program.t[1])
    answer == 0 || throw(ForeignError())
    return nothing
end

"""
    foreign_field(T, n, m, call)

A vector field of `n` states and `m` parameters that Python evaluates.
"""
function foreign_field(::Type{T}, n, m, call) where {T}
    memory = Memory{T, Vector{T}}(
        zeros(T, 1), zeros(T, n), zeros(T, n), zeros(T, m), zeros(T, n), zeros(T, n), zeros(T, m)
    )
    program(level) = thunk(ForeignProgram{T}(call, level, memory.t))
    return Field(memory, program(FIELD), program(PULLBACK), program(JOINT), nothing)
end

nstates(field::Field) = length(field.memory.y)
nparams(field::Field) = length(field.memory.params)

"""
    prepare!(field; recording, stop, from, direction, jumps, wants_params)

Forget what was computed before and count from zero; a solve starts at the time `from`.
"""
function prepare!(field; recording, stop, from, direction, jumps, wants_params)
    reset!(field.tally, recording)
    field.done = NOTHING
    field.is_recorded = false
    field.stop = stop
    field.direction = direction
    field.jumps = jumps
    field.wants_params = wants_params
    field.trail = nothing
    start_step!(field, from)
    return field
end

"Say that a step starts at `t`."
start_step!(field, t) = (field.from = t; nothing)

"Where a step starts after one that ended at `t`: from a jump, OrdinaryDiffEq moves on by an ulp."
function past_jump(field, t)
    t in field.jumps || return t
    return field.direction > 0 ? nextfloat(t) : prevfloat(t)
end

"The time to evaluate f at: `t` itself, or, at a jump, its neighbour on the side that is meant."
function one_sided(field::Field{T}, t) where {T}
    (; jumps, from, direction) = field
    isempty(jumps) && return T(t)
    # Steps reach their end up to rounding; and rounded to T, what is near may be the same.
    near = max(4 * eps(max(abs(t), abs(from))), Float64(eps(T(t))))
    for i in searchsortedfirst(jumps, t - near):length(jumps)
        jump = jumps[i]
        jump > t + near && break
        rounding = 4 * eps(max(abs(jump), abs(from)))
        at_jump = abs(t - jump) <= rounding
        at_jump || T(t) == T(jump) || continue
        starts_here = abs(from - jump) <= rounding && direction * (t - from) >= 0
        later = at_jump ? (direction > 0) == starts_here : t > jump
        return later ? nextfloat(T(jump)) : prevfloat(T(jump))
    end
    return T(t)
end

"Run `program` at (t, y, λ) unless its results are there already."
function evaluate!(field, level, program::Thunk, y, λ, t)
    memory = field.memory
    time = one_sided(field, t)
    here = field.done != NOTHING && field.at == time && memory.y == y
    known = here && (field.done == FIELD || λ === nothing || memory.cotangent == λ)
    has_record = field.is_recorded || program !== field.record || program === field.field
    known && has_record && field.done >= level && return nothing
    check_stop(field.stop)
    if !here
        copyto!(memory.y, y)
        fill!(memory.t, time)
        count_evaluation!(field.tally, t)
    end
    λ === nothing || copyto!(memory.cotangent, λ)
    field.done = NOTHING
    program()
    level == FIELD || (field.tally.nvjp += 1)
    field.at = time
    field.done = level
    field.is_recorded = program === field.record
    return nothing
end

"""
Compute λᵀ∂f/∂y for the evaluation at `t` that left `record`, and the λ in memory; take in what
[`gather!`](@ref) needs to add λᵀ∂f/∂θ to what memory holds of it. What else is known of a point is
forgotten.
"""
function reverse!(field, record, t)
    (; memory) = field
    check_stop(field.stop)
    copyto!(field.recorded, record)
    fill!(memory.t, one_sided(field, t))
    field.done = NOTHING
    field.is_recorded = false
    field.reverse()
    collect!(field.gather)
    field.tally.nvjp += 1
    return nothing
end

"""
Compute f, λᵀ∂f/∂y and λᵀ∂f/∂θ for what is in memory as the discrete adjoint does: by what f leaves
of itself, and no more.
"""
function evaluate_in_parts!(field)
    (; memory, recorded) = field
    fill!(memory.params_bar, 0)
    forget!(field.gather)
    y = copy(memory.y)
    field.record()
    record = copy(recorded)
    fill!(memory.y, NaN)
    copyto!(recorded, record)
    field.reverse()
    collect!(field.gather)
    gather!(field.gather)
    copyto!(memory.y, y)
    return nothing
end

"f as the solvers call it."
struct VectorField{F <: Field} <: Function
    field::F
end
function (f::VectorField)(du, u, _, t)
    (; field) = f
    (; trail) = field
    evaluate!(field, FIELD, trail === nothing ? field.field : field.record, u, nothing, t)
    copyto!(du, field.memory.dy)
    trail === nothing || note!(trail, t, field.memory.dy, field.recorded)
    return nothing
end

"λᵀ∂f/∂y as the adjoints call it."
struct StateProduct{F <: Field} <: Function
    field::F
end
function (f::StateProduct)(out, λ, u, _, t)
    field = f.field
    if field.wants_params
        evaluate!(field, JOINT, field.joint, u, λ, t)
    else
        evaluate!(field, PULLBACK, field.pullback, u, λ, t)
    end
    copyto!(out, field.memory.y_bar)
    return nothing
end

"λᵀ∂f/∂θ as the adjoints call it."
struct ParameterProduct{F <: Field} <: Function
    field::F
end
function (f::ParameterProduct)(out, λ, u, _, t)
    evaluate!(f.field, JOINT, f.field.joint, u, λ, t)
    copyto!(out, f.field.memory.params_bar)
    return nothing
end

"∂f/∂y as implicit methods call it, a row for each unit cotangent."
struct StateJacobian{F <: Field, V} <: Function
    field::F
    cotangent::V
end
StateJacobian(field::Field) = StateJacobian(field, similar(field.memory.y))

function (jacobian::StateJacobian)(J, u, _, t)
    (; field, cotangent) = jacobian
    for i in eachindex(u)
        # No single element is written: the array may be a GPU's.
        cotangent .= eachindex(cotangent) .== i
        evaluate!(field, PULLBACK, field.pullback, u, cotangent, t)
        copyto!(view(J, i, :), field.memory.y_bar)
    end
    return nothing
end

"""
    ode_function(field)
    ode_function(field, alg)

The field as solvers and adjoints take it; with its Jacobian, if the algorithm asks for one. By
differences, Rodas5P took 4.4 times as many steps on Robertson's problem at 1e-8.

The one without is made once: SciMLBase goes through all methods of a function to see what it
takes, for longer than a small solve lasts.
"""
function ode_function(field::F) where {F <: Field}
    isempty(field.functions) && push!(field.functions, new_ode_function(field))
    return only(field.functions)::Base.promote_op(new_ode_function, F)
end

new_ode_function(field) = ODEFunction{true, SciMLBase.FullSpecialize}(
    VectorField(field); vjp = StateProduct(field), vjp_p = ParameterProduct(field)
)

function ode_function(field::Field, alg)
    OrdinaryDiffEqCore.isimplicit(alg) && has_products(field) || return ode_function(field)
    return ODEFunction{true, SciMLBase.FullSpecialize}(
        VectorField(field); vjp = StateProduct(field), vjp_p = ParameterProduct(field),
        jac = StateJacobian(field)
    )
end
