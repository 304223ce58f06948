# What Python calls: C functions, found by address, that take numbers and pointers only.
#
# Python waits in them without its lock, so nothing here touches a Python object: Python's
# functions come as C function pointers, its arrays as pointers to memory that it keeps
# alive until the call returns. Exceptions do not pass; a status does, and a message.
# The other side is pysemi/runtime/border.py; the layouts of the structs are the same.

"How a call ended."
@enum Status::Int32 begin
    SUCCESS = 0
    FAILED = 1 # with a message
    STOPPED = 2
    FOREIGN = 3 # a Python function raised
    NON_FINITE = 4
    UNDERFLOW = 5
    EXHAUSTED = 6 # too many steps
    UNKNOWN_ALGORITHM = 7
    EVENT_IS_NAN = 8 # at the report's event time
    NOT_DISCRETE = 9 # no steps that can be made again
    RESULT_NOT_FINITE = 10 # the solver had no objection
    COTANGENT_NOT_FINITE = 11 # nothing was solved, all gradients are NaN
end

"One direction's settings. Pointers with a count of 0 are not looked at."
struct CSettings
    algorithm::Ptr{UInt8}
    rtol::Ptr{Float64}
    nrtol::Int64
    atol::Ptr{Float64}
    natol::Int64
    "Pairs (first, last) of the norm's components, from 1; `norm` is used if there are none."
    components::Ptr{Int64}
    ncomponents::Int64
    weights::Ptr{Float64}
    nweights::Int64
    norm::Ptr{Cvoid}
    maxiters::Int64
    torchdiffeq::Int64
    first_step::Float64
    safety::Float64
    ifactor::Float64
    dfactor::Float64
    jumps::Ptr{Float64}
    njumps::Int64
    steps::Ptr{Float64}
    nsteps::Int64
end

struct CForward
    settings::CSettings
    times::Ptr{Float64}
    ntimes::Int64
    y0::Ptr{Cvoid}
    "States at the times, one after the other."
    y::Ptr{Cvoid}
    "Keep the solution for a backward solve: 0, 1, 2 for all of it, or 3 for its steps."
    keep::Int64
    "Of the states where steps began, how many may be kept; the others are computed again."
    checkpoints::Int64
    recording::Int64
    stop::Ptr{Stop}
    "`(t, pointer to y) -> number` whose change of sign ends the solve, or null."
    event::Ptr{Cvoid}
    "A field whose values end the solve when the first of them changes sign, or 0."
    event_field::Int64
end

struct CBackward
    solution::Int64
    settings::CSettings
    "One of `ADJOINT_NAMES`, from 0."
    adjoint::Int64
    "Times that the cotangents belong to, the start first, or none: those of the forward solve."
    times::Ptr{Float64}
    ntimes::Int64
    cotangents::Ptr{Cvoid}
    y_bar::Ptr{Cvoid}
    params_bar::Ptr{Cvoid}
    recording::Int64
    stop::Ptr{Stop}
end

struct CReport
    status::Int32
    solution::Int64
    nf::Int64
    nvjp::Int64
    accepted::Int64
    rejected::Int64
    t::Float64
    dt::Float64
    error_norm::Float64
    evaluations::Int64
    steps::Int64
    rejections::Int64
    "When the event came."
    event_time::Float64
    "Whether the method solves equations at each step, as one for stiff problems."
    implicit::Int64
    "The recorded times are held under this number until they are fetched; 0 for none."
    times::Int64
    seconds::Float64
end

"""
Everything that Python holds by number. Only the home thread calls, but a call may solve on
several threads.
"""
const HELD = Dict{Int64, Any}()
const HELD_LOCK = Threads.SpinLock()
const LAST_NUMBER = Ref{Int64}(0)
const MESSAGE = Ref("")

hold(x) = Base.@lock HELD_LOCK begin
    number = (LAST_NUMBER[] += 1)
    HELD[number] = x
    number
end

function held(number)
    found = Base.@lock HELD_LOCK Base.get(HELD, number, nothing)
    found === nothing && throw(KeyError(number))
    return found
end

"Hold nothing under `number` any more; answers what was held."
let_go(number) = Base.@lock HELD_LOCK pop!(HELD, number, nothing)

function status_of(error)
    error isa Stopped && return STOPPED
    error isa ForeignError && return FOREIGN
    error isa UnknownAlgorithm && return UNKNOWN_ALGORITHM
    error isa NotRungeKutta && return NOT_DISCRETE
    error isa EventIsNaN && return EVENT_IS_NAN
    MESSAGE[] = sprint(showerror, error)
    return FAILED
end

function status_of(code::ReturnCode.T)
    code in (ReturnCode.Success, ReturnCode.Terminated) && return SUCCESS
    code == ReturnCode.MaxIters && return EXHAUSTED
    code == ReturnCode.Unstable && return NON_FINITE
    code in (ReturnCode.DtLessThanMin, ReturnCode.DtNaN) && return UNDERFLOW
    MESSAGE[] = string("the solver returned ", code)
    return FAILED
end

# Every element is looked at, since it takes longer to see whether one may stop.
all_finite(xs) = mapreduce(isfinite, &, xs; init = true)

"`status`, unless a success left something that is not finite."
finite_status(status::Status, results...) =
    status === SUCCESS && !all(all_finite, results) ? RESULT_NOT_FINITE : status

"""
The status of `solve(y_bar, params_bar)`, which is to fill in a gradient. Cotangents that are not
finite are not solved for: no error estimate would accept a step.
"""
function gradient_status(solve, y_bar, params_bar, cotangents)
    all_finite(cotangents) && return finite_status(solve(y_bar, params_bar), y_bar, params_bar)
    foreach(gradient -> fill!(gradient, NaN), (y_bar, params_bar))
    return COTANGENT_NOT_FINITE
end

"Run `call` and answer with its status."
function answered(call)
    try
        call()
        return Int32(SUCCESS)
    catch error
        return Int32(status_of(error))
    end
end

"Copy of the last error's message, cut to `n` bytes, as C text."
function border_message(out::Ptr{UInt8}, n::Int64)
    bytes = codeunits(MESSAGE[])
    count = min(length(bytes), n - 1)
    GC.@preserve bytes unsafe_copyto!(out, pointer(bytes), count)
    unsafe_store!(out, 0x00, count + 1)
    return Int32(count)
end

"""
Build a field from a tape; `addresses` gets the first byte of every buffer, and `kept` a 1 if a
package of its kernels was written, which is to be compiled and whose name is the message.
"""
function border_build(
        text::Ptr{UInt8}, n::Int64, number::Ptr{Int64}, addresses::Ptr{Ptr{Cvoid}}, kept::Ptr{Int64}
    )
    return answered() do
        seconds = @elapsed tape = read_tape(unsafe_string(text, n))
        unsafe_store!(kept, keep(tape, seconds))
        for (i, role) in enumerate(tape.roles)
            unsafe_store!(addresses, Ptr{Cvoid}(pointer(tape.buffers[i])), i)
        end
        unsafe_store!(number, hold(Field(tape)))
    end
end

"Write the package of a tape's kernels, if they took long; say whether it is to be compiled."
function keep(tape, seconds)
    (; package) = tape
    package === nothing && return false
    (; path, after) = KERNEL_FOLDER[]
    (seconds > after && write_package(package, path)) || return false
    MESSAGE[] = package.name
    return true
end

"Make a field that Python evaluates; `addresses` gets the seven arrays of its memory."
function border_foreign(
        double::Int64, n::Int64, m::Int64, call::Ptr{Cvoid}, number::Ptr{Int64},
        addresses::Ptr{Ptr{Cvoid}}
    )
    return answered() do
        field = double == 0 ? foreign_field(Float32, n, m, call) : foreign_field(Float64, n, m, call)
        memory = field.memory
        for i in 1:fieldcount(typeof(memory))
            unsafe_store!(addresses, Ptr{Cvoid}(pointer(getfield(memory, i))), i)
        end
        unsafe_store!(number, hold(field))
    end
end

"Run one program on what is in the field's memory; at level 4, those of the discrete adjoint."
function border_evaluate(number::Int64, level::Int64)
    return answered() do
        field = held(number)
        field.done = NOTHING
        programs = (field.field, field.pullback, field.joint, () -> evaluate_in_parts!(field))
        programs[level]()
    end
end

function border_release(number::Int64)
    return answered() do
        x = let_go(number)
        x isa Solved && discard!(x.solution)
    end
end

"Copy the times of a solve, held under `number`, and let go of them."
function border_times(
        number::Int64, evaluations::Ptr{Float64}, steps::Ptr{Float64}, sizes::Ptr{Float64},
        rejections::Ptr{Float64}
    )
    return answered() do
        for (to, from) in zip((evaluations, steps, sizes, rejections), held(number))
            GC.@preserve from unsafe_copyto!(to, pointer(from), length(from))
        end
        let_go(number)
    end
end

function copied(p::Ptr{T}, n) where {T}
    copy = Vector{T}(undef, n)
    GC.@preserve copy unsafe_copyto!(pointer(copy), p, n)
    return copy
end

tolerance(::Type{T}, p, n) where {T} = n == 1 ? T(unsafe_load(p)) : T.(copied(p, n))

function norm_of(::Type{T}, c::CSettings, n) where {T}
    c.ncomponents == 0 && return ForeignNorm{T}(c.norm, zeros(T, n))
    pairs = copied(c.components, 2 * c.ncomponents)
    ranges = [pairs[2i - 1]:pairs[2i] for i in 1:(c.ncomponents)]
    return ComponentNorm(ranges, T.(copied(c.weights, c.nweights)))
end

jumps_of(c::CSettings) = sort!(copied(c.jumps, c.njumps))

function settings_of(::Type{T}, c::CSettings, n, jumps = jumps_of(c)) where {T}
    norm = norm_of(T, c, n)
    # The usual ones are of a type that the compiler knows.
    c.natol == c.nrtol == 1 && norm isa ComponentNorm && c.first_step == 0 && return Settings(
        T(unsafe_load(c.atol)), T(unsafe_load(c.rtol)), norm, c.maxiters, controls_of(c), jumps,
        copied(c.steps, c.nsteps), nothing
    )
    return Settings(
        tolerance(T, c.atol, c.natol), tolerance(T, c.rtol, c.nrtol), norm, c.maxiters,
        controls_of(c), jumps, copied(c.steps, c.nsteps)
    )
end

controls_of(c::CSettings) =
    Controls(c.torchdiffeq != 0, c.first_step, c.safety, c.ifactor, c.dfactor)

as_vector(::Type{T}, p, n) where {T} = unsafe_wrap(Array, Ptr{T}(p), n)

"The vector at `p` that gets the parameters' gradient: it may be the field's own, which has it then."
function gradient_at(p, field::Field{T}) where {T}
    own = field.memory.params_bar
    return own isa Vector{T} && p == pointer(own) ? own : as_vector(T, p, nparams(field))
end

as_matrix(::Type{T}, p, n, k) where {T} = unsafe_wrap(Array, Ptr{T}(p), (n, k))

"Tell what a solve did that began at `began` (ns); answers whether it succeeded."
function report!(to::Ptr{CReport}, status, tally, began; solution = Int64(0), event_time = NaN, implicit = false)
    times = (tally.evaluation_times, tally.step_times, tally.step_sizes, tally.rejected_times)
    report = CReport(
        Int32(status), solution, tally.nf, tally.nvjp, tally.accepted, tally.rejected,
        tally.t, tally.dt, tally.error_norm, length(tally.evaluation_times),
        length(tally.step_times), length(tally.rejected_times), event_time,
        implicit, tally.recording ? hold(map(copy, times)) : 0, (time_ns() - began) / 1.0e9
    )
    unsafe_store!(to, report)
    return status === SUCCESS
end

"""
    share_out(solve, fields, n)

Call `solve(k, i)`, which answers whether it succeeded, for each `i` in `1:n`. The solves take
turns in using the `fields`, which are as many as threads may be at work: `k` is a field's number.
"""
function share_out(solve, fields, n)
    workers = length(fields)
    if workers == 1
        for i in 1:n
            solve(1, i) || break
        end
        return nothing
    end
    threads = BLAS.get_num_threads()
    BLAS.set_num_threads(1)
    try
        # Which solve is whose does not depend on the others' speed, nor do sums over them.
        @sync for k in 1:workers
            Threads.@spawn for i in k:workers:n
                solve(k, i) || break
            end
        end
    finally
        BLAS.set_num_threads(threads)
    end
    return nothing
end

"The field of that number, or a vector of several."
held_fields(numbers, n) =
    n == 1 ? held(unsafe_load(numbers)) : [held(unsafe_load(numbers, k)) for k in 1:n]

"""
An algorithm that was asked for by its name, and what its steps are made of, with its own
interpolation and torchdiffeq's, once these are asked for. Looking them up takes as long as a small
solve.
"""
mutable struct Named
    const name::String
    const dense::Bool
    const algorithm::Any
    own::Union{Nothing, RungeKutta}
    torchdiffeq::Union{Nothing, RungeKutta}
end

const NAMED = Named[]

function named(name::Ptr{UInt8}, dense)
    for known in NAMED
        known.dense == dense && is_name(name, known.name) && return known
    end
    text = unsafe_string(name)
    found = Named(text, dense, algorithm(text; dense), nothing, nothing)
    push!(NAMED, found)
    return found
end

is_name(p, name) =
    GC.@preserve name ccall(:strcmp, Cint, (Ptr{UInt8}, Ptr{UInt8}), p, pointer(name)) == 0

"The coefficients of an algorithm, as `log_for` wants them."
function method_of(x::Named, torchdiffeq)
    kept = torchdiffeq ? x.torchdiffeq : x.own
    kept === nothing || return kept
    method = in_newest_world(runge_kutta, x.algorithm, torchdiffeq)::RungeKutta
    return torchdiffeq ? (x.torchdiffeq = method) : (x.own = method)
end

"The function of `(u, t)` whose change of sign ends the solve, or nothing."
function event_of(::Type{T}, c::CForward, u0, t0) where {T}
    c.event == C_NULL || return ForeignEvent{T}(c.event, zeros(T, length(u0)))
    c.event_field == 0 || return TapeEvent(held(c.event_field), u0, t0)
    return nothing
end

"Solve `n` problems, of one algorithm, with fields that are all the same."
function border_forward(
        requests::Ptr{CForward}, reports::Ptr{CReport}, n::Int64, fields::Ptr{Int64}, nfields::Int64
    )
    return answered() do
        method = find_method(unsafe_load(requests))
        in_newest_world(forward_all, held_fields(fields, nfields), method, requests, reports, n)
    end
end

function forward_all(field::Field, method, requests, reports, n)
    for i in 1:n
        forward(field, method, unsafe_load(requests, i), reports + (i - 1) * sizeof(CReport)) || break
    end
    return nothing
end

forward_all(fields::Vector{<:Field}, method, requests, reports, n) = share_out(fields, n) do k, i
    forward(fields[k], method, unsafe_load(requests, i), reports + (i - 1) * sizeof(CReport))
end

"Load what holds the algorithm, before several threads want it."
function find_method(c::CForward)
    method = named(c.settings.algorithm, c.keep == 2)
    c.keep == 3 && method_of(method, c.settings.torchdiffeq != 0)
    return method
end

function forward(field::Field{T}, method, c::CForward, report) where {T}
    began = time_ns()
    n = nstates(field)
    times, jumps = copied(c.times, c.ntimes), jumps_of(c.settings)
    settings = settings_of(T, c.settings, n, jumps)
    direction = times[end] >= times[1] ? 1 : -1
    prepare!(
        field; recording = c.recording != 0, c.stop, from = times[1], direction, jumps,
        wants_params = false
    )
    solution = Int64(0)
    event_time = NaN
    status = try
        alg = method.algorithm
        y, y0 = as_matrix(T, c.y, n, c.ntimes), copy(as_vector(T, c.y0, n))
        event = event_of(T, c, y0, times[1])
        log = c.keep == 3 ? log_for(field, method, c, jumps) : nothing
        solved = if event === nothing
            unseen(solve_from!)(
                y, field, y0, times, alg, settings, c.keep == 2 ? Val(true) : Val(false), log
            )
        else
            unseen(solve_until!)(event, y, field, y0, times[1], direction, alg, settings, log)
        end::Solved
        event === nothing || (event_time = solved.times[end])
        c.keep == 0 || (solution = hold(solved))
        finite_status(status_of(solved.code), view(y, :, eachindex(solved.times)))
    catch error
        error isa EventIsNaN && (event_time = error.t)
        status_of(error)
    end
    return report!(report, status, field.tally, began; solution, event_time)
end

log_for(field, method, c, jumps) =
    StepLog(field, c.checkpoints, method_of(method, c.settings.torchdiffeq != 0), jumps)

"""
Solve the adjoints of `n` solutions, with fields that are all the same. The gradients with
respect to the parameters are added up, in the first request's `params_bar`.
"""
function border_backward(
        requests::Ptr{CBackward}, reports::Ptr{CReport}, n::Int64, fields::Ptr{Int64}, nfields::Int64
    )
    return answered() do
        find_adjoint(unsafe_load(requests))
        in_newest_world(backward_all, held_fields(fields, nfields), requests, reports, n)
    end
end

backward_all(field::Field, requests, reports, n) =
    n == 1 ? backward_one(field, requests, reports) : backward_all([field], requests, reports, n)

function backward_one(field::Field, requests, reports)
    c = unsafe_load(requests)
    backward(field, held(c.solution), c, gradient_at(c.params_bar, field), reports)
    return nothing
end

function backward_all(fields::Vector{<:Field{T}}, requests, reports, n) where {T}
    m = nparams(first(fields))
    total = gradient_at(unsafe_load(requests).params_bar, first(fields))
    sums = [zeros(T, m) for _ in fields]
    parts = [zeros(T, m) for _ in fields]
    share_out(fields, n) do k, i
        c = unsafe_load(requests, i)
        report = reports + (i - 1) * sizeof(CReport)
        succeeded = backward(fields[k], held(c.solution), c, parts[k], report)
        sums[k] .+= parts[k]
        return succeeded
    end
    fill!(total, 0)
    foreach(sum -> total .+= sum, sums)
    return nothing
end

"Load what holds the adjoint and its algorithm, before several threads want it."
function find_adjoint(c::CBackward)
    adjoint_name(c.adjoint) === :discrete && return nothing
    load_adjoints()
    algorithm(unsafe_string(c.settings.algorithm))
    return nothing
end

const ADJOINT_NAMES = (:backsolve, :gauss, :discrete, :interpolating, :quadrature)

adjoint_name(number) = ADJOINT_NAMES[number + 1]

function backward(field::Field{T, V}, solved, c::CBackward, params_bar, report) where {T, V}
    adjoint = adjoint_name(c.adjoint)
    if adjoint === :discrete
        # Of no other type, but for what nobody can differentiate so.
        (; solution, times) = solved
        return backward_by_steps(
            field, solution::Union{Nothing, StepLog{V}}, times::Vector{Float64}, c, params_bar, report
        )
    end
    # The field's own is written to at each evaluation.
    result = params_bar === field.memory.params_bar ? similar(params_bar) : params_bar
    succeeded = in_newest_world(backward_by_adjoint, adjoint, field, solved, c, result, report)::Bool
    result === params_bar || copyto!(params_bar, result)
    return succeeded
end

function backward_by_steps(field::Field{T}, log, observed, c::CBackward, params_bar, report) where {T}
    began = time_ns()
    n = nstates(field)
    times = c.ntimes == 0 ? observed : copied(c.times, c.ntimes)
    prepare!(
        field; recording = c.recording != 0, c.stop, from = times[1],
        direction = times[end] >= times[1] ? 1 : -1,
        jumps = log === nothing ? Float64[] : log.jumps, wants_params = true
    )
    status = try
        cotangents = as_matrix(T, c.cotangents, n, length(times))
        gradient_status(as_vector(T, c.y_bar, n), params_bar, cotangents) do y_bar, params_bar
            if log === nothing
                stand_still!(y_bar, params_bar, cotangents)
            else
                pull_back!(y_bar, params_bar, field, log, times, cotangents)
            end
            SUCCESS
        end
    catch error
        status_of(error)
    end
    return report!(report, status, field.tally, began)
end

"States at other times within a solve of which the steps are kept, into the columns of `y`."
function border_interpolate(
        number::Int64, solution::Int64, times::Ptr{Float64}, ntimes::Int64, y::Ptr{Cvoid},
        stop::Ptr{Stop}
    )
    return answered() do
        in_newest_world(interpolate_all, held(number), held(solution).solution, copied(times, ntimes), y, stop)
    end
end

function interpolate_all(field::Field{T}, log::StepLog, times, y, stop) where {T}
    direction = log.ends[1] >= log.starts[1] ? 1 : -1
    prepare!(
        field; recording = false, stop, from = log.starts[1], direction, log.jumps, wants_params = false
    )
    interpolate_steps!(as_matrix(T, y, nstates(field), length(times)), field, log, times)
    return nothing
end

"""
    entry_points()

Name => address of each C function; the sizes of the structs, for Python to check; and how many
threads there are.
"""
function entry_points()
    address(p) = Int(UInt(p))
    return Dict{String, Int}(
        "message" => address(@cfunction(border_message, Int32, (Ptr{UInt8}, Int64))),
        "build" => address(
            @cfunction(
                border_build, Int32,
                (Ptr{UInt8}, Int64, Ptr{Int64}, Ptr{Ptr{Cvoid}}, Ptr{Int64})
            )
        ),
        "foreign" => address(
            @cfunction(
                border_foreign, Int32,
                (Int64, Int64, Int64, Ptr{Cvoid}, Ptr{Int64}, Ptr{Ptr{Cvoid}})
            )
        ),
        "evaluate" => address(@cfunction(border_evaluate, Int32, (Int64, Int64))),
        "release" => address(@cfunction(border_release, Int32, (Int64,))),
        "times" => address(
            @cfunction(
                border_times, Int32,
                (Int64, Ptr{Float64}, Ptr{Float64}, Ptr{Float64}, Ptr{Float64})
            )
        ),
        "forward" => address(
            @cfunction(border_forward, Int32, (Ptr{CForward}, Ptr{CReport}, Int64, Ptr{Int64}, Int64))
        ),
        "backward" => address(
            @cfunction(border_backward, Int32, (Ptr{CBackward}, Ptr{CReport}, Int64, Ptr{Int64}, Int64))
        ),
        "interpolate" => address(
            @cfunction(
                border_interpolate, Int32,
                (Int64, Int64, Ptr{Float64}, Int64, Ptr{Cvoid}, Ptr{Stop})
            )
        ),
        "threads" => Threads.nthreads(),
        "sizeof CForward" => sizeof(CForward),
        "sizeof CBackward" => sizeof(CBackward),
        "sizeof CReport" => sizeof(CReport),
        "sizeof CStop" => sizeof(Stop),
    )
end

"[`entry_points`](@ref) as text, a line each: name, tab, number."
listing() = join(("$name\t$number" for (name, number) in entry_points()), '\n')
