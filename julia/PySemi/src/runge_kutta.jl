# The coefficients of OrdinaryDiffEq's explicit Runge–Kutta methods, read off the methods
# themselves: one step is made with a vector field whose i-th evaluation is the i-th unit
# vector, so that every state which the method makes up says how it was made.

"Pairs `i => c_i`, for the sum of `c_i x_i`."
const Combination = Vector{Pair{Int, Float64}}

"""
    RungeKutta

An explicit Runge–Kutta method: `Y_i = y + h Σ_j a_ij k_j`, `k_i = f(t + c_i h, Y_i)`, and
`y + h Σ_i b_i k_i` at the step's end.

# Fields
- `rows`: of each stage, pairs `j => a_ij`.
- `columns`: of each stage, pairs `i => a_ij`.
- `nodes`: the `c_i`.
- `weights`: pairs `i => b_i`.
- `between`: for Θ in (0, 1), the weights of the solution inside a step, `y + h Σ_i w_i k_i`.
- `own`: how many stages the step itself has; those beyond them serve interpolation.
"""
struct RungeKutta
    rows::Vector{Combination}
    columns::Vector{Combination}
    nodes::Vector{Float64}
    weights::Combination
    between::Any
    own::Int
end

nstages(method::RungeKutta) = length(method.rows)

struct NotRungeKutta <: Exception
    name::String
end
Base.showerror(io::IO, e::NotRungeKutta) =
    print(io, e.name, " is no explicit Runge–Kutta method whose steps can be made again")

"Evaluations in two steps of the methods with the most stages, interpolation's included."
const MOST_STAGES = 96

"A vector field that returns unit vectors, and where it was asked for them."
struct Probe
    field::Field{Float64, Vector{Float64}}
    states::Vector{Vector{Float64}}
    times::Vector{Float64}
end

function Probe()
    states, times = Vector{Float64}[], Float64[]
    zeroed(n) = zeros(n)
    N = MOST_STAGES
    memory = Memory{Float64, Vector{Float64}}(
        zeroed(1), zeroed(N), zeroed(N), zeroed(1), zeroed(N), zeroed(N), zeroed(1)
    )
    function answer()
        push!(states, copy(memory.y))
        push!(times, memory.t[1])
        fill!(memory.dy, 0)
        memory.dy[length(states)] = 1
        return nothing
    end
    program = thunk(answer)
    return Probe(Field(memory, program, program, program, nothing), states, times)
end

"""
    runge_kutta(alg, torchdiffeq = false)

The coefficients of an algorithm, with its own interpolation or torchdiffeq's.

Throws [`NotRungeKutta`](@ref) if two steps of it are not two steps of one explicit
Runge–Kutta method.
"""
function runge_kutta(alg, torchdiffeq = false)
    return Base.get!(() -> read_method(alg, torchdiffeq), METHODS, (typeof(alg), torchdiffeq))
end

function read_method(alg, torchdiffeq)
    refuse() = throw(NotRungeKutta(string(nameof(typeof(alg)))))
    OrdinaryDiffEqCore.isimplicit(alg) && refuse()
    probe = Probe()
    integrator = start_probe(probe, alg, torchdiffeq)
    step!(integrator)
    stages = length(probe.states)
    weights = integrator.u[1:stages]
    between = torchdiffeq ? torchdiffeq_weights(integrator, twin(alg)) : own_weights(integrator)
    between(0.5) # which may need more stages
    total = length(probe.states)
    between = as_polynomials(between, total)
    rows = [nonzeros(state) for state in probe.states]
    columns = [[i => a for i in 1:total for (k, a) in rows[i] if k == j] for j in 1:total]
    is_explicit = all(i -> all(((j, _),) -> j < i, rows[i]), 1:total) && iszero(probe.times[1])
    is_explicit && repeats(alg, torchdiffeq, probe, stages, weights) || refuse()
    return RungeKutta(rows, columns, copy(probe.times), nonzeros(weights), between, stages)
end

const METHODS = Dict{Tuple{DataType, Bool}, RungeKutta}()

function start_probe(probe, alg, torchdiffeq)
    prepare!(
        probe.field; recording = false, stop = Ptr{Stop}(C_NULL), from = 0.0, direction = 1,
        jumps = Float64[], wants_params = false
    )
    u0 = zeros(MOST_STAGES)
    problem = ODEProblem{true}(ode_function(probe.field), u0, (0.0, 4.0), probe.field.memory.params)
    # What DP5 keeps for its own interpolation lies where its stages were.
    return init(
        problem, alg; adaptive = false, dt = 1.0, save_everystep = false, save_start = false,
        save_end = false, dense = false, calck = !torchdiffeq, verbose = SILENT
    )
end

nonzeros(state)::Combination = [j => a for (j, a) in enumerate(state) if a != 0]

"Weights of the algorithm's own interpolation."
function own_weights(integrator)
    out = similar(integrator.u)
    return one_at_a_time(Θ -> nonzeros(integrator(out, Θ)))
end

"Weights of torchdiffeq's interpolation."
function torchdiffeq_weights(integrator, like)
    work = Interpolation(integrator.u)
    return one_at_a_time(Θ -> nonzeros(interpolate!(work, integrator, like, Θ)))
end

"A function that several threads may call, of one that works in memory of its own."
function one_at_a_time(f)
    guard = ReentrantLock()
    return x -> Base.@lock guard f(x)
end

"Weights inside of a step as polynomials of Θ, in Newton's form: a column of `factors` for each stage."
struct WeightPolynomials
    stages::Vector{Int}
    nodes::Vector{Float64}
    factors::Matrix{Float64}
end

(weights::WeightPolynomials)(Θ)::Combination =
    [stage => at(weights, Θ, column) for (column, stage) in enumerate(weights.stages)]

function at((; nodes, factors)::WeightPolynomials, Θ, column)
    value = factors[end, column]
    for i in (length(nodes) - 1):-1:1
        value = muladd(value, Θ - nodes[i], factors[i, column])
    end
    return value
end

"Degree of the interpolants that are tried."
const MOST_DEGREE = 12

"""
    as_polynomials(between, stages)

The weights that `between` gives as polynomials of Θ, which those of explicit methods are; `between`
itself, should they not be.
"""
function as_polynomials(between, stages)
    weights_at(f, Θ) = (w = zeros(stages); foreach(((i, c),) -> w[i] = c, f(Θ)); w)
    checked = range(0.01, 0.99; length = 2 * MOST_DEGREE + 1)
    expected = [weights_at(between, Θ) for Θ in checked]
    bound = 1.0e-13 * max(1, maximum(w -> maximum(abs, w), expected))
    for degree in 1:MOST_DEGREE
        nodes = [(1 - cospi((2i - 1) / (2 * degree + 2))) / 2 for i in 1:(degree + 1)]
        found = polynomials_through(nodes, [weights_at(between, Θ) for Θ in nodes])
        errors = (maximum(abs, weights_at(found, Θ) - w) for (Θ, w) in zip(checked, expected))
        all(<=(bound), errors) && return found
    end
    return between
end

function polynomials_through(nodes, values)
    stages = findall(i -> any(w -> w[i] != 0, values), eachindex(first(values)))
    factors = [w[i] for w in values, i in stages]
    for k in 2:length(nodes), i in length(nodes):-1:k
        factors[i, :] .= (factors[i, :] .- factors[i - 1, :]) ./ (nodes[i] - nodes[i - k + 1])
    end
    return WeightPolynomials(stages, nodes, factors)
end

"Whether a second step does from the first one's end what the first did from zero."
function repeats(alg, torchdiffeq, first_probe, stages, weights)
    probe = Probe()
    integrator = start_probe(probe, alg, torchdiffeq)
    step!(integrator)
    probe.states == first_probe.states[1:stages] || return false
    middle = copy(integrator.u)
    step!(integrator)
    # The first stage may be an evaluation of the first step, at its end.
    new = (stages + 1):length(probe.states)
    carried = findlast(i -> probe.states[i] == middle && probe.times[i] == 1, 1:stages)
    second = length(new) == stages ? collect(new) : [something(carried, 0); new]
    length(second) == stages && second[1] != 0 || return false
    alike = all(1:stages) do i
        moved = probe.states[second[i]] - middle
        same_combination(moved, first_probe.states[i], second) &&
            probe.times[second[i]] ≈ 1 + first_probe.times[i]
    end
    return alike && same_combination(integrator.u - middle, weights, second)
end

"Whether a vector has the coefficients of another at the places `second`, and no others."
function same_combination(vector, coefficients, second)
    expected = zero(vector)
    expected[second] = coefficients[eachindex(second)]
    return isapprox(vector, expected; atol = 1.0e-13 * max(1, maximum(abs, coefficients)))
end
